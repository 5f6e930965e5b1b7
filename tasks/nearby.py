"""Features and class rasters in a bucket or on the web: a copy on this machine is read.

    s3://bucket/town.gpkg, s3://bucket/town.gpkg/roofs     with the settings of the stores
    s3://bucket/town.shp, s3://bucket/plan.gdb/roofs       with the files that belong to them
    https://host/town.geojson
    https://host/rest/services/roofs/FeatureServer/0       a layer of ArcGIS, see `tasks.feature_layers`
    https://host/rest/services/cover/ImageServer           classes as pixels; read where they are, not copied

Copies lie in the cache under what their content is called there (an ETag, a time of the last edit): what has changed
is fetched again.
"""

import hashlib
import json
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from registry import scenes
from registry.errors import Denied, NotFound, OptionsError, StoreError
from registry.scenes import UNKNOWN, Search
from registry.settings import settings
from tasks import feature_layers, image_services
from tasks.layers import OF_ITEM, OF_LAYERS, OF_SHAPEFILE, address

COPIES = "features"  # in the cache
IN_GEODATABASE = Search(suffixes=("", ".gdbtable", ".gdbtablx", ".gdbindexes", ".atx", ".spx", ".freelist", ".horizon"))
Contents = dict[str, str]  # of each file, by its address, what its content is called


def nearby(path: Path) -> Path:
    """The path itself; of what lies elsewhere that of a copy, with the layer behind it.

    Raises NotFound where there is none, StoreError where it cannot be had or changed meanwhile.
    """
    where = address(path)
    if not where:
        return path
    if image_services.is_image_service(where):
        return image_services.description(where)
    file, layer = _split(where)
    contents = contents_of(where)
    folder = settings().cache / COPIES / hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]
    if not folder.is_dir():
        _copy(where, contents, folder)
    return folder / _below(file) / layer


def contents_of(where: str) -> Contents:
    """Of a file, and of those that belong to it.

    Raises NotFound, StoreError, OptionsError where a server tells nothing that changes with the content, and LabelError
    where an ArcGIS service has no such layer.
    """
    if feature_layers.is_layer(where):
        return {where: feature_layers.content_of(where)}
    if image_services.is_image_service(where):
        return {where: image_services.content_of(where)}
    file, _ = _split(where)
    suffix = _below(file).suffix.lower()
    if suffix == ".gdb" and (found := {one.place: one.content for one in scenes.find(file, IN_GEODATABASE)}):
        return found
    try:
        contents = {file: scenes.content_of(file)}
    except NotFound as error:
        raise NotFound("there is no such file", where=file, do="check the address") from error
    if contents[file] == UNKNOWN:
        do = "copy it to this machine, or to a bucket"
        raise OptionsError("its server tells no ETag, size or time of change", where=file, do=do)
    for end in OF_SHAPEFILE if suffix == ".shp" else ():
        with suppress(NotFound, Denied):  # so tells a server that hides what is not there
            contents[_beside(file, end)] = scenes.content_of(_beside(file, end))
    return contents


def _split(where: str) -> tuple[str, str]:
    """The address of the file, and the layer that is named behind it or ""; of a STAC item none."""
    if OF_ITEM.match(where):
        return where.partition("#")[0], ""
    parts = where.split("/")
    for i, part in enumerate(parts[3:-1], start=3):
        if PurePosixPath(part).suffix.lower() in OF_LAYERS:
            return "/".join(parts[: i + 1]), "/".join(parts[i + 1 :])
    return where, ""


def _copy(where: str, contents: Contents, folder: Path) -> None:
    """All files or none. Raises StoreError when they are others than those of `contents`."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        for place in contents:
            if feature_layers.is_layer(place):
                feature_layers.fetch(place, part / _below(place))
            else:
                scenes.fetch(scenes.scene_at(place), (part / _below(place)).parent)
        if contents_of(where) != contents:
            raise StoreError("changed while it was fetched", where=where, do="try again")
        try:
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # nobody was quicker
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _below(place: str) -> Path:
    """Where its copy lies in the folder, by bucket or host and path: so messages tell where it came from."""
    scheme, _, rest = place.partition("://")
    parts = urlsplit(place)
    names = rest.split("/") if scheme == "s3" else [parts.netloc, *unquote(parts.path).split("/")]
    path = Path(*(name for name in names if name not in ("", ".", "..")))
    return path.with_name(f"{path.name}.json") if feature_layers.is_layer(place) else path


def _beside(file: str, end: str) -> str:
    """The address of the file of the same name that ends so, in large letters where the other one does."""
    text, question, query = file.partition("?")
    stem, _, suffix = text.rpartition(".")
    return f"{stem}{end.upper() if suffix.isupper() else end}{question}{query}"
