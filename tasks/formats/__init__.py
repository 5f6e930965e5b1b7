"""Metadata formats of exported training data: one file each, named as ArcGIS names the format.

A format module is a pair over one label file, with the picture, the folder and the statistics done for all of them:

    CARRIES = "boxes" or "mask"                what a chip needs for it
    SUFFIX = ".xml"                            of the label file; "" = that of the image
    write(chip, classes, path)                 the label file of one chip
    read(chip, classes, path) -> Chip          the chip with its labels filled in

Raises LabelError for a label file that cannot be understood.
"""
