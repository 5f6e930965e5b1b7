"""The folder is the list of choices: one file a choice, its name is its key."""

import importlib
import pkgutil
from types import ModuleType

from registry.errors import NotFound


def names(package: ModuleType) -> list[str]:
    """The choices in a package, sorted; files that start with `_` are helpers, not choices."""
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def load(package: ModuleType, name: str) -> ModuleType:
    """The module behind a name. Raises NotFound with the list of what there is."""
    if name not in (known := names(package)):
        raise NotFound(f"no {name!r} in {package.__name__}; it has {', '.join(known)}")
    return importlib.import_module(f"{package.__name__}.{name}")
