"""The deep learning package: a model folder in one file, and back (ArcGIS formats B).

    roofs.dlpk                           a ZIP archive; members at its root, one .emd, its stem is the package's stem
    ├── roofs.emd                        the definition
    ├── roofs.pth                        the weights
    ├── ClassifyPixels.py, unet.py       the raster function and what it imports
    ├── model_metrics.html
    └── ModelCharacteristics/            loss_graph.png, show_results.png, training_validation_loss.json

The same folder packs to the same bytes. What comes from elsewhere is not trusted: see `unpack`.
"""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256 as new_sha256
from pathlib import Path, PureWindowsPath
from typing import Any

from registry import pickles, signing
from registry.archive import PIECE, check_names, extract, is_root_emd, opened, read
from registry.emd import Emd
from registry.errors import Conflict, NotFound, PackageError, StoreError
from registry.files import atomic, part_of, sha256, sweep_parts, sync
from registry.rules import named_files
from registry.settings import settings

STAY = {"__pycache__", "checkpoints"}  # folders of a model folder that do not travel
STAY_SUFFIXES = {".dlpk", ".ckpt", ".pyc"}
DENSE = {
    ".pth",
    ".pt",
    ".onnx",
    ".pkl",
    ".h5",
    ".pb",
    ".tflite",
    ".png",
    ".jpg",
    ".tif",
    ".zip",
}  # deflate gains nothing
OPEN = {  # ModelType -> Esri's open raster function that ArcGIS runs for a predefined configuration
    "ImageClassification": "ImageClassifier.py",
    "ObjectDetection": "ObjectDetector.py",
    "ObjectClassification": "ObjectClassifier.py",
}


def definitions(folder: Path) -> list[Path]:
    """The model definitions that lie in a folder, in any case of letters."""
    return sorted(path for path in folder.glob("*") if path.suffix.lower() == ".emd")


@dataclass(frozen=True)
class ModelFolder:
    """A view on a folder that holds one trained model."""

    path: Path

    @property
    def emd_path(self) -> Path:
        found = definitions(self.path)
        if len(found) != 1:
            got = [path.name for path in found]
            raise PackageError("expected exactly one .emd", where=self.path, got=got, do="train a model into it first")
        return found[0]

    @property
    def name(self) -> str:
        return self.emd_path.stem

    @property
    def emd(self) -> Emd:
        return Emd.read(self.emd_path)

    @property
    def weights(self) -> Path:
        return self.file(self.emd.model_file)

    def file(self, name: str) -> Path:
        """What the definition names. Raises PackageError when that is no file of the folder but somebody else's."""
        if Path(name).is_absolute() or ".." in Path(name).parts:
            do = "put the file into the folder and write its name"
            raise PackageError("names a file outside of the model's folder", where=self.path, got=name, do=do)
        return self.path / name

    @property
    def raster_function(self) -> str:
        """File of the Python raster function in the folder, "" when it is a part of ArcGIS that is not (formats A.6).

        Esri's open functions stand for a predefined configuration where the folder has a file of their name.
        """
        name = self.emd.inference_function
        if name and not name.startswith("[Functions]"):
            return name
        name = self.open_function
        return name if name and (self.path / name).is_file() else ""

    @property
    def open_function(self) -> str:
        """Which of Esri's open functions a predefined configuration means, "" for one that is ArcGIS's alone."""
        named = PureWindowsPath(self.emd.inference_function).name
        name = named or OPEN.get(str(self.emd.document.get("ModelType")), "")
        return name if name in OPEN.values() else ""

    def files(self) -> dict[str, Path]:
        """Member name -> file, sorted: what travels. Hidden things, checkpoints and packages stay."""
        return {name: path for name, path in self.members().items() if _travels(Path(name))}

    def members(self) -> dict[str, Path]:
        """The same of all of it, whatever it is named: what somebody packed is not ours to drop."""
        found = {path.relative_to(self.path): path for path in self.path.rglob("*") if path.is_file()}
        return {place.as_posix(): path for place, path in sorted(found.items())}


@dataclass(frozen=True)
class Package:
    """What can be told of a .dlpk without unpacking it."""

    path: Path
    emd: Emd
    name: str  # stem of the .emd inside
    members: Mapping[str, int]  # name -> bytes unpacked
    size: int  # bytes of the file
    sha256: str

    def document(self) -> dict[str, Any]:
        facts = {"name": self.name, "path": str(self.path), "sha256": self.sha256, "size": self.size}
        return {**facts, "members": dict(self.members), "emd": dict(self.emd.document)}


def pack(folder: ModelFolder, out: Path) -> Path:
    """Write `<name>.dlpk`, whole or not at all; the same files give the same bytes (ArcGIS formats B.6).

    Raises EmdError when the definition breaks a rule, PackageError when a member may not travel under its name.
    """
    if out.name != f"{folder.name}.dlpk":
        do = "ArcGIS Pro opens the .emd by the package's name: name both alike"
        raise PackageError(f"expected the file name {folder.name}.dlpk", where=out, got=out.name, do=do)
    folder.emd.validate(folder.path)
    files = folder.files()
    _check_packable(folder, files)
    return write_archive(files, out)


def write_archive(files: Mapping[str, Path], out: Path) -> Path:
    """Member name -> file, in this order, into a new archive, which is there when it is whole."""
    with atomic(out) as part, zipfile.ZipFile(part, "w") as archive:
        for name, path in files.items():
            _add(archive, name, path)
    return out


def unpack(dlpk: Path, into: Path) -> ModelFolder:
    """Unpack into a new folder, which appears only when all of it is there.

    A file that the definition names in other letters, upper for lower, gets that name: where it was made they are one.

    Raises PackageError for what could harm: members that leave the folder, links, two members of one name,
    encryption, bombs, damage; for a 7-Zip archive, a folder around the model, and none or several .emd at the root.
    Raises Conflict when `into` exists and is not empty.
    """
    into = into.absolute()
    sweep_parts(into)
    part = part_of(into)
    try:
        with opened(dlpk) as archive:
            for info in archive.infolist():
                extract(archive, info, part)
        _spell(part, ModelFolder(part).emd)
        _take_name(part, into)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return ModelFolder(into)


def _spell(folder: Path, emd: Emd) -> None:
    files = (path for path in folder.rglob("*") if path.is_file())
    alike = {path.relative_to(folder).as_posix().casefold(): path for path in files}  # an archive with two was refused
    for name in named_files(emd.document).values():
        path = alike.pop(name.casefold(), None)
        if path and path != folder / name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            path.rename(folder / name)


def inspect(dlpk: Path) -> Package:
    """Its definition, its members and its sha256. Raises PackageError as `unpack` does."""
    return _package(dlpk, sha256(dlpk))


def survey(dlpk: Path) -> tuple[Package, dict[str, str]]:
    """What `inspect` tells, and the sha256 of every member; reads all of the archive, so damage is found.

    The file and its members are hashed at the same time.
    """
    with ThreadPoolExecutor(1) as thread:
        digest = thread.submit(sha256, dlpk)
        members = digests(dlpk)
        return _package(dlpk, digest.result()), members


def digests(dlpk: Path) -> dict[str, str]:
    """The sha256 of every member."""
    found = {}
    with opened(dlpk) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                digest = new_sha256()
                for piece in read(archive, info):
                    digest.update(piece)
                found[info.filename] = digest.hexdigest()
    return found


def _package(dlpk: Path, digest: str) -> Package:
    with opened(dlpk) as archive:
        members = {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}
        name = next(name for name in members if is_root_emd(name))
        content = b"".join(read(archive, archive.getinfo(name)))
    emd = Emd.decode(content, where=f"{dlpk} {name}")
    return Package(dlpk, emd, Path(name).stem, members, dlpk.stat().st_size, digest)


def verify(dlpk: Path) -> Package:
    """The package, after every rule for it was checked on its unpacked content (ArcGIS formats A.7, B, C.3)."""
    package = inspect(dlpk)
    with tempfile.TemporaryDirectory() as work:
        folder = unpack(dlpk, Path(work) / package.name)
        folder.emd.validate(folder.path)
        for name, path in folder.members().items():
            if path.suffix.lower() in pickles.SUFFIXES or path == folder.weights:
                pickles.check(path, name)
    if package.name != dlpk.stem:
        do = "give the file its name back: ArcGIS Pro opens the .emd by the package's name"
        raise PackageError(f"expected the file name {package.name}.dlpk", where=dlpk, got=dlpk.name, do=do)
    return package


def open_model(path: Path, work: Path | None = None) -> ModelFolder:
    """The model in a folder, behind an .emd or in a .dlpk.

    A .dlpk is unpacked once, into a folder named by its sha256 below `work` (default: the cache). Raises PackageError
    when DLPK_SIGNERS asks for a signature that it has not.
    """
    if not path.exists():
        raise NotFound("no such model", where=path, do="give a model folder, an .emd or a .dlpk")
    if path.is_dir() or path.suffix.lower() == ".emd":
        folder = ModelFolder(path if path.is_dir() else path.parent)
        folder.emd_path  # noqa: B018  (the property checks)
        return folder
    if path.suffix.lower() != ".dlpk":
        raise PackageError("expected a model folder, an .emd or a .dlpk", where=path, got=path.suffix)
    signing.demand(path)
    into = (work or settings().cache / "models") / sha256(path)
    if not into.is_dir():
        with suppress(Conflict):  # another process was quicker
            unpack(path, into)
    return ModelFolder(into)


# -- writing -----------------------------------------------------------------------------------------------------------
def _travels(place: Path) -> bool:
    hidden = any(name.startswith(".") for name in place.parts)
    return not hidden and STAY.isdisjoint(place.parts[:-1]) and place.suffix.lower() not in STAY_SUFFIXES


def _check_packable(folder: ModelFolder, files: Mapping[str, Path]) -> None:
    emd, where = folder.emd, folder.path
    check_names(files, where)
    for name in files:
        if not name.isascii():
            raise PackageError("expected an ASCII name", where=where, got=name, do="rename the file")
        if name.lower().endswith(".emd") and "/" in name:
            raise PackageError("expected one .emd, at the root", where=where, got=name, do="move or rename the file")
    if not folder.emd_path.read_bytes().isascii():
        do = "write it again with Emd.write: ArcGIS reads it with the platform's encoding"
        raise PackageError("expected ASCII text", where=folder.emd_path, do=do)
    for named in named_files(emd.document).values():
        if not any(name == named or name.startswith(f"{named}/") for name in files):
            raise PackageError("expected a file that travels", where=folder.emd_path, got=named, do="move it in")


def _add(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.create_system = 3  # or the platform's own would be written
    info.external_attr = 0o100644 << 16
    info.compress_type = zipfile.ZIP_STORED if path.suffix.lower() in DENSE else zipfile.ZIP_DEFLATED
    info.file_size = path.stat().st_size  # decides on the large format
    with path.open("rb") as source, archive.open(info, "w") as target:
        shutil.copyfileobj(source, target, PIECE)


def _take_name(part: Path, into: Path) -> None:
    try:
        os.rename(part, into)  # noqa: PTH104  (Path.rename would do the same; an empty folder may be replaced)
    except OSError as error:
        if into.exists():
            raise Conflict("is not empty", where=into, do="remove it or choose another folder") from error
        raise StoreError(f"cannot write ({error.strerror})", where=into, do="check the disk and your rights") from error
    sync(into.parent)
