"""Detect Change Using Deep Learning: a model and two rasters in, a raster of changes out (ArcGIS formats E.9, F.4)."""

from functools import partial
from pathlib import Path

from registry.dlpk import ModelFolder
from tasks.band_choice import pair_indexes
from tasks.class_blocks import write_classes
from tasks.class_products import check_products, finish
from tasks.inference import check_tool, load_function, run_facts
from tasks.inference_options import ChangeOptions, ModelSource
from tasks.pairs import open_pair
from tasks.parts import wanted_part
from tasks.progress import OnProgress, ignore
from tasks.run_folder import Share
from tasks.sources import Imageries, files_read, refuse_overwriting


def detect_change(
    model: ModelFolder,
    from_raster: Imageries,
    to_raster: Imageries,
    out: Path,
    options: ChangeOptions,
    *,
    source: ModelSource | None = None,
    on_progress: OnProgress = ignore,
    share: Share | None = None,
) -> Path:
    """Tell where two rasters of one place differ; write a GeoTIFF to `out` (.tif) on the grid of the first.

    0 is no change, nodata what either date has not. The second is resampled (bilinear) where its grid is another.
    With a `share` only that part of the work is done, see `tasks.run_folder`.
    Raises ImageryError when the two do not overlap, are of different data types or lack the model's bands, OptionsError
    for a model or an argument that does not fit, RasterFunctionError when the model fails.
    """
    check_tool(model, "detect-change")
    function = load_function(model, options)
    source = source or ModelSource.of(model)
    with open_pair(from_raster, to_raster, model.emd, options) as pair:
        bands, tell = pair_indexes(pair.first, pair.second, function.configuration), (on_progress, "detect change")
        read = [*files_read(from_raster), *files_read(to_raster)]
        refuse_overwriting(read, out, *filter(None, [options.probabilities]))
        image = wanted_part(pair, options)
        check_products(image, out, options)
        facts = run_facts("detect-change", model, source, [pair.first, pair.second], options, read)

        def second_look() -> None:
            if options.probabilities:
                pair, again, shares = (from_raster, to_raster), options.for_probabilities(), Path(options.probabilities)
                detect_change(model, *pair, shares, again, source=source, on_progress=on_progress, share=share)

        put_together = write_classes(function, model, image, bands, out, source, tell, facts, share, second_look)
        put_together(partial(finish, image=image, classes=model.emd.classes, options=options, source=source))
    return out
