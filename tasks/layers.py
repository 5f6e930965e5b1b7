"""Files that hold several layers, and how people name one of them: behind the file, as ArcGIS does."""

from pathlib import Path

OF_LAYERS = {".gpkg", ".gdb", ".gml", ".kml"}


def file_of(path: Path) -> Path:
    """The file in which a layer is named, as in town.gpkg/roofs and plan.gdb/dataset/roofs; else the path itself."""
    if path.exists():
        return path
    files = (parent for parent in path.parents if parent.suffix.lower() in OF_LAYERS and parent.exists())
    return next(files, path)


def layer_of(path: Path) -> str:
    """The layer that is named behind the file; "" where none is."""
    return "" if file_of(path) == path else path.name
