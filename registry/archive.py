"""Reading a ZIP archive that came from anywhere: nothing it holds is believed before it was checked.

Refused are members that would leave the folder, links, two members of one file, encryption, bombs and damage; whatever
zipfile finds wrong is told as PackageError.
"""

import os
import stat
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from registry.errors import FULL, DlpkError, NotFound, PackageError, StoreError
from registry.files import sync

MOST_MEMBERS = 10_000
MOST_BYTES = 32 * 2**30  # unpacked
MOST_RATIO = 100  # unpacked to packed; asked above 16 MiB, weights are near 1
PIECE = 2**20


@contextmanager
def opened(dlpk: Path) -> Iterator[zipfile.ZipFile]:
    """The archive, its list of members checked; whatever zipfile finds is told as PackageError."""
    if not dlpk.is_file():
        raise NotFound("no such package", where=dlpk)
    with dlpk.open("rb") as file, _told(dlpk):
        _check_magic(file, dlpk)
        with zipfile.ZipFile(file) as archive:
            _check_count(file, len(archive.infolist()))
            _check_members(archive.infolist(), dlpk)
            yield archive


@contextmanager
def _told(dlpk: Path) -> Iterator[None]:
    try:
        yield
    except DlpkError:
        raise
    except OSError as error:
        if error.errno is None or error.filename is None:  # how zipfile tells of offsets outside the file
            raise _damaged(dlpk, error) from error
        do = "check the disk, its free space and your rights"
        raise StoreError(f"cannot unpack ({error.strerror})", where=error.filename, do=do) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise _damaged(dlpk, error) from error
    except (LookupError, ArithmeticError, TypeError, MemoryError) as error:  # from fields with nonsense in them
        raise _damaged(dlpk, error) from error


def _damaged(dlpk: Path, error: BaseException) -> PackageError:
    text = " ".join(str(error).split()) or type(error).__name__
    return PackageError(f"is damaged or no ZIP archive ({text})", where=dlpk, do="copy or download it again")


def _check_magic(file: IO[bytes], dlpk: Path) -> None:
    if file.read(6) == b"7z\xbc\xaf\x27\x1c":
        do = f"unpack it with `7z x`, then pack the content with `zip -r {dlpk.name} .`: arcgis.learn reads ZIP only"
        raise PackageError("is a 7-Zip archive", where=dlpk, do=do)
    file.seek(0)


def _check_count(file: IO[bytes], count: int) -> None:
    """zipfile itself does not notice when damage hides members from it."""
    file.seek(-min(file.seek(0, os.SEEK_END), 22 + 65_535), os.SEEK_END)
    tail = file.read()
    end = tail.rindex(b"PK\x05\x06")
    told = int.from_bytes(tail[end + 10 : end + 12], "little")
    if told not in (count, 65_535):
        raise zipfile.BadZipFile(f"{told} members are announced, {count} found")


def _check_members(infos: list[zipfile.ZipInfo], dlpk: Path) -> None:
    def refuse(what: str, got: object) -> PackageError:
        return PackageError(what, where=dlpk, got=got, do="do not use it, or have it packed anew")

    for info in infos:
        kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise refuse("holds a link or a device", info.filename)
        if info.flag_bits & 0x2041:  # encrypted, strongly encrypted, masked directory
            raise refuse("is encrypted", info.filename)
        if info.is_dir() and info.file_size:
            raise refuse("holds a folder with content", info.filename)
        if info.orig_filename != info.filename:
            raise refuse("holds a name with a zero byte", info.orig_filename)
    size, packed = sum(info.file_size for info in infos), dlpk.stat().st_size
    if len(infos) > MOST_MEMBERS:
        raise refuse(f"holds more than {MOST_MEMBERS} members", len(infos))
    if size > MOST_BYTES or size > max(MOST_RATIO * packed, 16 * 2**20):
        raise refuse(f"would unpack to more than {MOST_RATIO} times its size or {MOST_BYTES} bytes", size)
    names = [info.filename for info in infos]
    check_names(names, dlpk)
    _check_root(names, dlpk)


def check_names(names: Iterable[str], where: Path) -> None:
    """Every name stays inside the folder, on Windows too, and no two are one file."""
    seen: dict[str, bool] = {}  # folded name -> it is a folder
    for name in names:
        parts = name.removesuffix("/").split("/")
        if "\\" in name or ":" in name or any(part.strip(" .") == "" for part in parts) or not name.isprintable():
            do = "use relative names with forward slashes"
            raise PackageError("holds a member that could leave the folder", where=where, got=name, do=do)
        key = name.removesuffix("/").casefold()
        if key in seen and not (seen[key] and name.endswith("/")):
            raise PackageError("holds two members of one name", where=where, got=name, do="keep one of them")
        seen[key] = name.endswith("/")
        for i in range(1, len(parts)):
            if not seen.setdefault("/".join(parts[:i]).casefold(), True):
                raise PackageError("holds a member inside a file", where=where, got=name, do="rename one of them")


def _check_root(names: list[str], dlpk: Path) -> None:
    found = [name for name in names if is_root_emd(name)]
    if len(found) == 1:
        return
    tops = {name.split("/")[0] for name in names}
    if not found and len(tops) == 1 and any(is_root_emd(name.partition("/")[2]) for name in names):
        do = "pack the content of the folder, not the folder"
        raise PackageError("expected the model at the root, it lies in a folder", where=dlpk, got=tops.pop(), do=do)
    raise PackageError("expected exactly one .emd at the root", where=dlpk, got=found, do="pack one model folder")


def is_root_emd(name: str) -> bool:
    return "/" not in name and name.lower().endswith(".emd")


def read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """The bytes of a member, never more than it declared."""
    left = info.file_size
    with archive.open(info) as member:
        while piece := member.read(PIECE):
            left -= len(piece)
            if left < 0:
                break
            yield piece
    if left:
        raise zipfile.BadZipFile(f"{info.filename} has not the declared size")


def extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, folder: Path) -> None:
    target = folder / info.filename
    if info.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("xb") as file:
            for piece in read(archive, info):
                file.write(piece)
        sync(target)
    except OSError as error:
        if error.errno in FULL:  # told without a name, as zipfile tells of damage
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise
