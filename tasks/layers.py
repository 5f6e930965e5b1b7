"""Files that hold several layers or rasters, and how people name one of them.

town.gpkg/roofs, plan.gdb/town/roofs     a layer, behind the file, as ArcGIS does
NETCDF:"town.nc":Band1                   a raster, as GDAL names its subdatasets
item.json#red,green,nir                  a raster of these assets of a STAC item, in this order
"""

import re
from pathlib import Path

REMOTE = re.compile(r"^(s3|https?):/+", re.IGNORECASE)
OF_SHAPEFILE = (".dbf", ".shx", ".prj", ".cpg")  # what lies beside it, under its name
PACKED = {".zip", ".kmz"}
OF_LAYERS = {".gpkg", ".gdb", ".gml", ".kml", *PACKED}
OF_ITEM = re.compile(r"^(?P<item>.+?\.json)(?:\?[^#]*)?#.+$", re.IGNORECASE)  # assets that are named behind it
SUBDATASET = re.compile(r"(?!(?:s3|gs|az|https?|ftp|file):)[A-Za-z][A-Za-z0-9_]+:", re.IGNORECASE)  # the driver


def address(path: str | Path) -> str:
    """The s3:// or https:// that it is, also where pathlib has eaten a slash; "" for what lies here."""
    text = str(path)
    return REMOTE.sub(lambda match: f"{match[1].lower()}://", text) if REMOTE.match(text) else ""


def file_of(path: Path) -> Path:
    """The file in which a layer or a raster is named; else the path itself."""
    if path.exists():
        return path
    if part := file_within(str(path)):
        return Path(part)
    files = (parent for parent in path.parents if parent.suffix.lower() in OF_LAYERS and parent.exists())
    return next(files, path)


def layer_of(path: Path) -> str:
    """The layer that is named behind the file, or GDAL's name of a raster in it; "" where none is."""
    file = file_of(path)
    if file == path:
        return ""
    return path.name if file in path.parents else str(path)


def named_from(name: str, folder: Path) -> str:
    """The name of a raster whose file lies in `folder`, from anywhere; "" where it names none within a file."""
    file = file_within(name, folder)
    if not file:
        return ""
    if OF_ITEM.match(name):
        return f"{(folder / file).resolve()}{name.removeprefix(file)}"
    driver, _, rest = name.partition(":")
    return name if file.startswith("/vsi") else f"{driver}:{rest.replace(file, str((folder / file).resolve()), 1)}"


def file_within(name: str, folder: Path = Path()) -> str:
    """What is a file or folder in the name of a raster within it, from `folder` on; "" where it is no such name."""
    if (item := OF_ITEM.match(name)) and (folder / item["item"]).is_file():
        return item["item"]
    if not SUBDATASET.match(name):
        return ""
    parts = filter(None, re.split(r':?"|:', name)[1:])
    return next((part for part in parts if part.startswith("/vsi") or (folder / part).exists()), "")
