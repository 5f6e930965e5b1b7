"""One Python raster function per inference task. A file's name is the name of its class and of its task.

These files travel inside the .dlpk and are run there, by ArcGIS as by `tasks/host.py` (ArcGIS formats E). They import
the standard library, numpy and torch, nothing of ours, and are written in Python 3.9 and for torch 2.0.1. `_tiles.py`
travels with each of them, `_class_raster.py` with those whose output is a raster of class values.

    class <FileName>:
        initialize(model=, device=)        the definition is read; torch and the weights wait for the first tile
        getParameterInfo()                 the arguments table
        getConfiguration(**scalars)        tx, ty, padding, extractBands ...
        vectorize(**blocks)                features; with getFields() and getGeometryType(). One block "raster", or for
                                           Classify Objects a sequence "rasters" with the image of each object
        updatePixels(tlc, shape, props, **blocks)   pixels; with updateRasterInfo(**kwargs); for Detect
                                           Change the bands of the first date, then those of the second
"""
