"""Networks: one file each, named as the architecture. Every file here TRAVELS inside the .dlpk.

    SERVES = ("detect_objects",)                         the raster functions that can run it
    build(bands, classes, **options) -> torch.nn.Module  `classes` without background; options as in JSON
    suggest(sides) -> dict                               optional: options that follow from the objects' sides in pixels
    INSTANCES = True                                     optional: a detector that draws; it learns from masks, too

The module takes images (n, bands, rows, cols) float32, normalised with the statistics of the training chips; for
detect_change two dates, (n, 2 * bands, rows, cols), and `bands` are those of one:

    forward(images)          eval mode; detectors: a list of {"boxes": (n, 4) xmin ymin xmax ymax in pixels,
                             "labels": (n,) int64 from 1, "scores": (n,) 0.05-1}, no object twice, and of instances
                             "masks": (n, rows, cols) 0-1; segmenters: logits (n, classes + 1, rows, cols);
                             classifiers of whole images: logits (n, classes)
    loss(images, targets)    one number, in eval mode too; targets are a detector's list of {"boxes", "labels"}, of
                             instances also "masks": (n, rows, cols) bool, or a segmenter's (n, rows, cols) int64 with
                             -1 where a pixel does not count, or of whole images (n,) int64 from 0, with several labels
                             (n, classes) of 0 and 1
    backbone                 the module that pretrained weights go into
    suppress(overlap)        optional, of a detector: the IoU above which it drops the weaker of two boxes of a class

Imports: the standard library, numpy, torch, torchvision; timm only where a timm backbone is built, scipy only in a loss
that can do without. Python 3.9 syntax, torch 2.0 API. Siblings are imported relatively, `from ._name import ...`, so
that they are found in the package as well as here; `tasks/travelling.py` reads these lines and packs what they name.
"""
