"""Metadata formats of exported training data: one file each, named as ArcGIS names the format (ArcGIS formats D.6).

A format module is a pair over the labels of one chip; the picture and the statistics are done for all of them:

    CARRIES = "boxes"        boxes and labels        | "mask"      a class index for each pixel
              "instances"    masks, boxes and labels | "panoptic"  mask and instances
              "label"        one label a chip; its box is the feature, or the whole tile
              "labels"       the classes in a chip, each once         | "nothing"
    write(chip, classes, folder, suffix) -> (path, ...)   the label files below `folder`; `suffix` is that of the
                                                          picture, the answer goes into map.txt
    read(chip, classes, folder) -> Chip                   the chip with its labels filled in

and, where the format needs it:

    check(classes)                            raises LabelError for classes that the format cannot hold; before writing
    image_path(chip, classes, suffix)         of the picture, below the folder; else images/<name><suffix>
    image2_path(chip, classes, suffix)        of the second picture; else images2/<name><suffix>
    labelled(folder, classes) -> {name, ...}  the chips that have labels; without it all have
    finish(folder, names, classes)            after the last chip; it may be called again after a kill
    SIDES = ("A", "B")                        each raster is an export of its own, with metadata files of its own

Raises LabelError, naming the file, for labels that cannot be understood.
"""
