"""Whose code a package is. Running a model runs its raster function, and that may do whatever we may.

Trusted is what this registry published, what holds no other code than files that we ship ourselves, and what lies in a
folder of DLPK_TRUSTED. Anything else runs only where the user names it with --trust, and then in a process of its own
(tasks/guarded.py).
"""

from importlib.machinery import all_suffixes
from pathlib import Path

from registry.dlpk import ModelFolder
from registry.errors import OptionsError
from registry.settings import settings
from tasks import networks, raster_functions

IMPORTED = (*all_suffixes(), ".zip", ".egg")  # what Python could import out of a folder
SHIPPED = (raster_functions, networks)  # folders whose files travel in packages


def is_trusted(model: ModelFolder) -> bool:
    """Our own files byte for byte, a folder that the user vouches for, or a package that was published here."""
    vouched = any(model.path.resolve().is_relative_to(folder.resolve()) for folder in settings().trusted)
    return vouched or is_ours(model.path) or is_published(model.path)


def is_ours(folder: Path) -> bool:
    """No code in the folder but files that we ship, and no link to another folder, which may hold any."""
    ours = {file.name: file for package in SHIPPED for file in Path(str(package.__file__)).parent.glob("*.py")}
    found = list(folder.rglob("*"))
    code = [file for file in found if file.name.endswith(IMPORTED) and file.is_file()]
    return not any(file.is_symlink() and file.is_dir() for file in found) and all(
        file.parent == folder and file.name in ours and file.read_bytes() == ours[file.name].read_bytes()
        for file in code
    )


def is_published(folder: Path) -> bool:
    """A .dlpk is unpacked into a folder of the cache that is named by its sha256, which the registry knows or not."""
    if folder.resolve().parent != (settings().cache / "models").resolve():
        return False
    from registry import catalog

    return any(not version.imported for version in catalog.of_package(folder.name))


def refuse_stranger(model: ModelFolder) -> None:
    """Raises OptionsError that says how to run it all the same."""
    do = "read its raster function, then give --trust; it runs in a process of its own, without your secrets"
    raise OptionsError("holds code that this registry did not publish", where=model.name, do=do)
