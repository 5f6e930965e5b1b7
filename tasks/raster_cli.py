"""The tools that prepare rasters, on the command line."""

from pathlib import Path

import click

from tasks import console


@click.command("composite-bands")
@click.argument("in_rasters", nargs=-1, required=True)
@click.argument("out_raster", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--band-names", default="", help="of each raster, as B02,B03; none: their own, or by file names")
@click.pass_obj
def composite_bands(
    program: console.JsonLines | None, *, in_rasters: tuple[str, ...], out_raster: Path, band_names: str
) -> None:
    """Make one raster of bands that lie in files of their own (Composite Bands).

    IN_RASTERS are of one place, in the order of the bands; OUT_RASTER is a .vrt, in the smallest of their cells. No
    pixel is copied, so the files have to stay where they are.
    """
    from tasks.composite import composite_bands as verb
    from tasks.imagery import open_imagery
    from tasks.sources import find_rasters

    made = verb(find_rasters(in_rasters), out_raster, tuple(filter(None, map(str.strip, band_names.split(",")))))
    with open_imagery(made) as image:
        facts = {"bands": list(image.band_names), "columns": image.width, "rows": image.height, "cell": image.cell}
    console.end(program, {"raster": str(made), **facts})
