"""Weights are data: a pickle that would run code when it is loaded is found without loading it.

A .pth is a ZIP archive with pickles inside, or pickles one after the other (torch before 1.6). Every pickle can name
functions to call; those of a state dict rebuild tensors, all others are suspicious (ArcGIS formats C.3).
"""

import io
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

from registry.errors import PackageError

SUFFIXES = {".pth", ".pt", ".pkl", ".pickle", ".bin", ".model", ".ckpt", ".joblib"}
MOST = 256 * 2**20  # bytes of a pickle inside a .pth; the tensors lie beside it
ZIP = b"PK\3\4"
LEGACY = 5  # pickles before the tensors in a .pth of old
TENSORS = re.compile(
    r"collections\.(OrderedDict|defaultdict|Counter)|_codecs\.encode|(builtins|__builtin__)\.(set|complex|bytearray)"
    r"|torch\.([A-Za-z]+Storage|Size|Tensor|device|u?int(8|16|32|64)?|b?float(16|32|64)?|half|double|long|short|bool)"
    r"|torch\.(complex(32|64|128)|q?u?int(8|32)|strided|per_tensor_affine|per_channel_affine)"
    r"|torch\.storage\.(Untyped|Typed)Storage|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
    r"|numpy\.(dtype|ndarray)|numpy\.(core|_core)\.multiarray\.(_reconstruct|scalar)|__torch__\.[\w.]+"
)


def check(path: Path, name: str) -> None:
    """Raises PackageError when loading the file would do more than rebuild tensors."""
    if found := sorted(suspicious(path)):
        got = ", ".join(found[:3])
        do = "do not load it; ask its maker for a plain state dict"
        raise PackageError(f"{name} would run code when it is loaded", where=path.parent, got=got, do=do)


def suspicious(path: Path) -> set[str]:
    """The names that the pickles of a file would import, without those that rebuild tensors; () for other files."""
    found: set[str] = set()
    for stream in _pickles(path):
        found |= {name for name in _names(stream) if not TENSORS.fullmatch(name)}
    return found


def _pickles(path: Path) -> Iterator[IO[bytes]]:
    """What torch takes for a ZIP begins like one, what zipfile takes for one may begin with anything, pickles too."""
    with path.open("rb") as file:
        if file.read(len(ZIP)) != ZIP:
            file.seek(0)
            yield file
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename.lower().endswith((".pkl", ".pickle")):  # torch finds data.pkl in any case of letters
                    yield io.BytesIO(_content(archive, info, path))
    except PackageError:
        raise
    except (zipfile.BadZipFile, ValueError, RuntimeError, NotImplementedError, EOFError, OSError) as error:
        raise PackageError("holds damaged weights", where=path, got=str(error), do="copy or download them") from error


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> bytes:
    if info.file_size > MOST:
        do = "do not load it; ask its maker for a plain state dict"
        raise PackageError("holds a pickle too large to be looked through", where=path, do=do)
    return archive.read(info)


def _names(stream: IO[bytes]) -> set[str]:
    names: set[str] = set()
    for _ in range(LEGACY):
        try:
            _Looking(stream, names).load()
        except Exception:  # noqa: BLE001  (any nonsense may stand in there; what was named before it counts)
            break
    return names


class _Thing:
    """What every name in a pickle stands for here: it takes any arguments and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __call__(self, *_: Any, **__: Any) -> "_Thing":
        return self

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...

    def add(self, _: Any) -> None: ...


class _Looking(pickle._Unpickler):  # noqa: SLF001  (the one in C can be made to reserve all memory)
    """Goes through a pickle, imports nothing and calls nothing."""

    def __init__(self, stream: IO[bytes], names: set[str]) -> None:
        super().__init__(stream, encoding="latin-1")
        self.names = names

    def find_class(self, module: str, name: str) -> Any:
        """Called for everything that a pickle imports."""
        if all(part.isidentifier() for part in f"{module}.{name}".split(".")):
            self.names.add(f"{module}.{name}")
        return _Thing

    def persistent_load(self, _: Any) -> Any:
        """Where a tensor lies."""
        return _Thing()
