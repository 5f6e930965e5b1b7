"""What can go wrong, told as the user meets it: where, what, got, do.

    DlpkError                        the base: catch it and print it, no traceback needed
    ├── EmdError(ValueError)         a model definition breaks a rule of ArcGIS formats A
    ├── PackageError(ValueError)     a .dlpk is damaged, hostile or incomplete
    ├── OptionsError(ValueError)     a parameter, a recipe or a command line does not fit
    ├── ImageryError(ValueError)     a raster cannot be used
    ├── LabelError(ValueError)       labels or exported chips cannot be used
    ├── TrainingError(RuntimeError)  training or evaluation cannot go on
    ├── RasterFunctionError(RuntimeError)  the Python raster function of a model failed
    ├── NotFound(LookupError)        no such model, version, object or plug-in
    ├── Conflict(FileExistsError)    the place is taken by something else
    │   └── Pruned                   or was, by the same package, which a prune removed
    └── StoreError(OSError)          a store, a server or a disk did not answer as it must
        └── Denied                   and waiting does not help: it refuses

Each child has a second, builtin parent, so a caller who knows nothing of us catches what he expects.
"""

import errno
from typing import Any

from registry.secrets import bare

_NOTHING = object()
FULL = (errno.ENOSPC, errno.EDQUOT)  # of an OSError: the disk has no room


class DlpkError(Exception):
    """`where: what, got this; do that`. Only `what` is needed."""

    def __init__(self, what: str, *, where: object = "", got: Any = _NOTHING, do: str = "") -> None:
        self.what, self.where, self.do = what, str(where), do
        self.got = None if got is _NOTHING else got
        text = f"{self.where}: {what}" if self.where else what
        text += "" if got is _NOTHING else f", got {got!r}"
        super().__init__(bare(text + (f"; {do}" if do else "")))

    def __str__(self) -> str:
        return str(self.args[0])  # OSError would print a tuple


class EmdError(DlpkError, ValueError): ...


class PackageError(DlpkError, ValueError): ...


class OptionsError(DlpkError, ValueError): ...


class ImageryError(DlpkError, ValueError): ...


class LabelError(DlpkError, ValueError): ...


class TrainingError(DlpkError, RuntimeError): ...


class RasterFunctionError(DlpkError, RuntimeError): ...


class NotFound(DlpkError, LookupError): ...


class Conflict(DlpkError, FileExistsError): ...


class Pruned(Conflict): ...


class StoreError(DlpkError, OSError): ...


class Denied(StoreError): ...
