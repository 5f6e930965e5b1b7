"""The five rules that carry the design, read from the imports (docs/architecture.md)."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
LAYERS = ("registry", "tasks", "flows", "infra")  # each may import itself and those before it
ABOVE = {"infra": ("prefect",)}  # an operator's tools speak to the server too
HOMES = {  # a heavy library -> the only folder that knows it
    **dict.fromkeys(("prefect",), "flows"),
    **dict.fromkeys(("mlflow", "boto3", "botocore"), "registry"),
    **dict.fromkeys(
        (
            "torch", "torchvision", "pytorch_lightning", "lightning", "torchmetrics", "timm", "albumentations", "cv2",
            "rasterio", "geopandas", "pyogrio", "shapely", "matplotlib", "onnx", "onnxruntime",
        ),
        "tasks",
    ),
}  # fmt: skip
VERBS = {"export", "train", "evaluate", "compare", "package"} | {
    *("detect_objects", "classify_pixels", "classify_objects", "detect_change")
}
TRAVELS = ("tasks/networks", "tasks/raster_functions")  # these files go into the .dlpk
MAY_TRAVEL = {"numpy", "torch", "torchvision"} | set(sys.stdlib_module_names)
HEAVY = ("torch", "mlflow", "boto3", "prefect", "rasterio", "matplotlib")
LIGHT = ("registry.emd", "registry.dlpk", "flows.cli")

MODULES = sorted(path for layer in LAYERS for path in (CHECKOUT / layer).rglob("*.py"))
TRAVELLERS = [path for path in MODULES if path.parent.relative_to(CHECKOUT).as_posix() in TRAVELS]


def name_of(path: Path) -> str:
    return path.relative_to(CHECKOUT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")


def imports(path: Path, *, everywhere: bool = True) -> Iterator[tuple[int, str]]:
    """Line and full name of what a module imports; `everywhere` also looks inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    for node in ast.walk(tree) if everywhere else top_level(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def top_level(tree: ast.AST) -> Iterator[ast.AST]:
    """Everything that runs when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from top_level(node)


def each(paths: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", paths, ids=name_of)


@each(MODULES)
def test_each_heavy_library_has_one_home(path: Path) -> None:
    layer = name_of(path).partition(".")[0]
    own = {name for name, home in HOMES.items() if home == layer} | set(ABOVE.get(layer, ()))
    strangers = [(line, name) for line, name in imports(path) if name.partition(".")[0] in HOMES.keys() - own]
    assert strangers == []


@each(MODULES)
def test_imports_point_one_way(path: Path) -> None:
    above = LAYERS[LAYERS.index(name_of(path).partition(".")[0]) + 1 :]
    assert [(line, name) for line, name in imports(path) if name.partition(".")[0] in above] == []


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_no_verb_imports_another_verb(verb: str) -> None:
    others = {f"tasks.{other}" for other in VERBS - {verb}}
    found = imports(CHECKOUT / "tasks" / f"{verb}.py")
    assert [(line, name) for line, name in found if name in others or name.rpartition(".")[0] in others] == []


@pytest.mark.slow
def test_only_export_knows_its_engine() -> None:
    known = [p for p in MODULES if any(name.startswith("tasks.exporting") for _, name in imports(p))]
    outside = {name_of(p) for p in known if p.parent.name not in ("exporting", "flows")}
    assert {"tasks.export", "tasks.cli"} == outside


@each(TRAVELLERS)
def test_what_ships_stands_alone(path: Path) -> None:
    at_import = {name.partition(".")[0] for _, name in imports(path, everywhere=False)}
    later = {name.partition(".")[0] for _, name in imports(path)}
    assert at_import - MAY_TRAVEL == set()
    assert later - MAY_TRAVEL - {"timm", "arcpy", "scipy"} == set()


@each(TRAVELLERS)
def test_what_ships_is_python_of_the_oldest_arcgis(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))


@pytest.mark.parametrize("module", LIGHT)
def test_the_light_modules_load_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("layer", LAYERS)
def test_the_packages_of_these_common_names_are_ours(layer: str) -> None:
    assert str(CHECKOUT / layer / "__init__.py") == importlib.import_module(layer).__file__
