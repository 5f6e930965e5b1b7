"""The room in which a stranger's raster function runs: its own modules, sys.path, environment, a stub of arcpy.

Raster functions import their neighbours by plain names (prf_utils, fields, features ...), and those names are the same
in many packages (ArcGIS formats E.1). So each function's modules are in sys.modules only while it is called; so are
the folders that it adds to sys.path and what it sets in os.environ, such as CUDA_VISIBLE_DEVICES.
"""

import importlib.util
import logging
import os
import shutil
import sys
import tempfile
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from registry.emd import Emd
from tasks import old_numpy

log = logging.getLogger(__name__)
FILES = ("ModelFile", "ModelConfigurationFile")  # of a definition; a function joins them to the folder itself


class Room:
    """A package folder and the modules that were imported out of it."""

    def __init__(self, folder: Path, device: int) -> None:
        self.folder = folder.resolve()
        self.modules: dict[str, ModuleType] = {"arcpy": _arcpy(device)}
        children = [path for path in self.folder.iterdir() if path.suffix == ".py" or path.is_dir()]
        self.own_names = {path.stem for path in children} - set(sys.stdlib_module_names)
        self.gone = old_numpy.asked_for(self.folder)
        self.environment: dict[str, str] = {}
        self.front, self.back = [str(self.folder)], list[str]()  # of sys.path

    def load(self, file: Path) -> ModuleType:
        """Import a file of the folder under a name that no other module has."""
        name = f"{file.stem}_{uuid.uuid4().hex}"
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        importlib.invalidate_caches()
        vars(module)["arcpy"] = self.modules["arcpy"]  # Esri's draft templates speak of it and import it nowhere
        with self.entered():
            sys.modules[name] = module
            spec.loader.exec_module(module)
        return module

    def definition(self, emd: Emd, path: Path) -> str:
        """The .emd to hand over: itself, or where it names files as Windows does, one beside links to all the rest."""
        named = {key: emd.document[key] for key in FILES if "\\" in str(emd.document.get(key) or "")}
        if not named or os.sep != "/":
            return str(path)
        beside = Path(tempfile.mkdtemp(prefix="dlpk-"))
        weakref.finalize(self, shutil.rmtree, beside, ignore_errors=True)
        for child in self.folder.iterdir():
            if child.name != path.name:
                (beside / child.name).symlink_to(child)
        portable = {key: str(text).replace("\\", "/") for key, text in named.items()}
        return str(emd.replace(**portable).write(beside / path.name))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Within: the folder leads sys.path, its modules are known, no bytecode is written into the model's folder."""
        path, bytecode, before = list(sys.path), sys.dont_write_bytecode, dict(sys.modules)
        environment = dict(os.environ)
        if any(name in before for name in self.own_names):  # looked up first: this is done for every tile
            for name in [name for name in before if name.partition(".")[0] in self.own_names]:
                del sys.modules[name]
        sys.modules.update(self.modules)
        known = len(sys.modules)
        sys.path[:] = [*self.front, *path, *self.back]
        sys.dont_write_bytecode = True
        os.environ.update(self.environment)
        own = old_numpy.put(self.gone)
        try:
            yield
        finally:
            old_numpy.take(own)
            self._leave(before, known)
            self._keep_path(path)
            self._keep_environment(environment)
            sys.path[:], sys.dont_write_bytecode = path, bytecode

    def _leave(self, before: dict[str, ModuleType], known: int) -> None:
        """`known`: modules when the room was entered; as many now means that the function has imported nothing."""
        if len(sys.modules) == known == len(before) + len(self.modules):
            self.modules = {name: sys.modules.pop(name, module) for name, module in self.modules.items()}
            return
        for name in sys.modules.keys() - before.keys() | self.modules.keys() | self.own_names & sys.modules.keys():
            if name in self.modules or self._is_mine(sys.modules.get(name)):
                self.modules[name] = sys.modules.pop(name, self.modules.get(name, ModuleType(name)))
        sys.modules.update({name: module for name, module in before.items() if name not in sys.modules})

    def _keep_path(self, outside: list[str]) -> None:
        """What the function put before the folders of `outside` and behind them."""
        known = set(outside)
        first = next((i for i, folder in enumerate(sys.path) if folder in known), len(sys.path))
        self.front = list(dict.fromkeys([*sys.path[:first], str(self.folder)]))
        self.back = list(dict.fromkeys(folder for folder in sys.path[first:] if folder not in {*known, *self.front}))

    def _keep_environment(self, outside: dict[str, str]) -> None:
        """A card hidden by one function must be seen by the next."""
        if (now := dict(os.environ)) == outside:
            return
        self.environment |= {name: text for name, text in now.items() if outside.get(name) != text}
        for name in now.keys() - outside.keys():
            del os.environ[name]
        os.environ.update(outside)

    def _is_mine(self, module: Any) -> bool:
        places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
        return any(place and Path(place).resolve().is_relative_to(self.folder) for place in places)


def _arcpy(device: int) -> ModuleType:
    """What Esri's functions touch of arcpy: env.processorType, env.gpuId and the three messages."""
    arcpy: Any = ModuleType("arcpy")
    arcpy.env = SimpleNamespace(processorType="CPU" if device == -1 else "GPU", gpuId=str(max(device, 0)))
    arcpy.AddMessage, arcpy.AddWarning, arcpy.AddError = log.info, log.warning, log.error
    return arcpy  # type: ignore[no-any-return]
