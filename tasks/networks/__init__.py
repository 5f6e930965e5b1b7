"""Networks: one file each, named as the architecture. Every file here TRAVELS inside the .dlpk.

    SERVES = ("detect_objects",)                         the raster functions that can run it
    build(bands, classes, **options) -> torch.nn.Module  `classes` without background; options as in JSON
    suggest(sides) -> dict                               optional: options that follow from the objects' sides in pixels

The module takes images (n, bands, rows, cols) float32, normalised with the statistics of the training chips:

    forward(images)          eval mode; detectors: a list of {"boxes": (n, 4) xmin ymin xmax ymax in pixels,
                             "labels": (n,) from 1, "scores": (n,) 0-1}; segmenters: logits (n, classes + 1, rows, cols)
    loss(images, targets)    one number; targets are a detector's list of {"boxes", "labels"}, or a segmenter's
                             (n, rows, cols) int64 with -1 where a pixel does not count
    backbone                 the module that pretrained weights go into

Imports: the standard library, numpy, torch, torchvision; timm only where a timm backbone is built. Python 3.9 syntax,
torch 2.0 API. Siblings are imported relatively, so that they are found in the package as well as here.
"""
