"""The room in which a stranger's raster function runs: its own modules, its own sys.path, a stub of arcpy.

Raster functions import their neighbours by plain names (prf_utils, fields, features ...), and those names are the same
in many packages (ArcGIS formats E.1). So each function's modules are in sys.modules only while it is called.
"""

import importlib.util
import logging
import re
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

log = logging.getLogger(__name__)
GONE = {"float": float, "int": int, "object": object, "bool": bool, "str": str, "complex": complex} | {
    "float_": np.float64,  # numpy names that were removed in 1.24 and 2.0 and that people's helpers use (E.10)
    "NaN": np.nan,
    "Inf": np.inf,
}


class Room:
    """A package folder and the modules that were imported out of it."""

    def __init__(self, folder: Path, device: int) -> None:
        self.folder = folder.resolve()
        self.modules: dict[str, ModuleType] = {"arcpy": _arcpy(device)}
        children = [path for path in self.folder.iterdir() if path.suffix == ".py" or path.is_dir()]
        self.own_names = {path.stem for path in children} - set(sys.stdlib_module_names)
        self.gone = _removed_numpy_names(path for path in children if path.suffix == ".py")

    def load(self, file: Path) -> ModuleType:
        """Import a file of the folder under a name that no other module has."""
        name = f"{file.stem}_{uuid.uuid4().hex}"
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        importlib.invalidate_caches()
        with self.entered():
            sys.modules[name] = module
            spec.loader.exec_module(module)
        return module

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Within: the folder leads sys.path, its modules are known, no bytecode is written into the model's folder."""
        path, bytecode, before = list(sys.path), sys.dont_write_bytecode, dict(sys.modules)
        if any(name in before for name in self.own_names):  # looked up first: this is done for every tile
            for name in [name for name in before if name.partition(".")[0] in self.own_names]:
                del sys.modules[name]
        sys.modules.update(self.modules)
        known = len(sys.modules)
        sys.path.insert(0, str(self.folder))
        sys.dont_write_bytecode = True
        for name in self.gone:
            setattr(np, name, GONE[name])
        try:
            yield
        finally:
            self._leave(before, known)
            sys.path[:], sys.dont_write_bytecode = path, bytecode

    def _leave(self, before: dict[str, ModuleType], known: int) -> None:
        """`known`: modules when the room was entered; as many now means that the function has imported nothing."""
        for name in self.gone:
            delattr(np, name)
        if len(sys.modules) == known == len(before) + len(self.modules):
            self.modules = {name: sys.modules.pop(name, module) for name, module in self.modules.items()}
            return
        for name in sys.modules.keys() - before.keys() | self.modules.keys() | self.own_names & sys.modules.keys():
            if name in self.modules or self._is_mine(sys.modules.get(name)):
                self.modules[name] = sys.modules.pop(name, self.modules.get(name, ModuleType(name)))
        sys.modules.update({name: module for name, module in before.items() if name not in sys.modules})

    def _is_mine(self, module: Any) -> bool:
        places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
        return any(place and Path(place).resolve().is_relative_to(self.folder) for place in places)


def _arcpy(device: int) -> ModuleType:
    """What Esri's functions touch of arcpy: env.processorType, env.gpuId and the three messages."""
    arcpy: Any = ModuleType("arcpy")
    arcpy.env = SimpleNamespace(processorType="CPU" if device == -1 else "GPU", gpuId=str(max(device, 0)))
    arcpy.AddMessage, arcpy.AddWarning, arcpy.AddError = log.info, log.warning, log.error
    return arcpy  # type: ignore[no-any-return]


def _removed_numpy_names(files: Iterator[Path]) -> set[str]:
    text = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    return {name for name in GONE if re.search(rf"\b(np|numpy)\.{name}\b", text) and not hasattr(np, name)}
