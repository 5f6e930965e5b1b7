"""A tiny model folder, whole in every respect but its intelligence, and packages made of it."""

import json
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from registry.catalog import Version
from registry.dlpk import ModelFolder, pack
from registry.emd import Emd
from registry.publishing import publish
from registry.tracking import connect
from tests.servers import SMALLEST_PART, Seaweed, mlflow_server, s3_environment, seaweed

FUNCTION = """
class ClassifyPixels:
    def initialize(self, **kwargs): ...
    def getParameterInfo(self): return []
    def getConfiguration(self, **scalars): return {}
    def updatePixels(self, tlc, shape, props, **pixelBlocks): return pixelBlocks
"""

DOCUMENT: dict[str, Any] = {
    "Framework": "PyTorch",
    "ModelConfiguration": "unet",
    "ModelType": "ImageClassification",
    "ModelFile": "roofs.pth",
    "InferenceFunction": "ClassifyPixels.py",
    "ImageHeight": 64,
    "ImageWidth": 64,
    "ExtractBands": [0, 1, 2],
    "MinCellSize": {"x": 0.5, "y": 0.5, "spatialReference": {"wkid": 32645, "latestWkid": 32645}},
    "InputRastersProps": {"RasterCount": 1, "SensorName": "", "BandNames": ["Red", "Green", "Blue"]},
    "Classes": [
        {"Value": 1, "Name": "roof", "Color": [230, 60, 40]},
        {"Value": 2, "Name": "pond", "Color": [0, 0, 255]},
    ],
}


def make_model(folder: Path, name: str = "roofs", weights: bytes = b"weights") -> ModelFolder:
    (folder / "ModelCharacteristics").mkdir(parents=True)
    (folder / f"{name}.pth").write_bytes(weights)
    (folder / "ClassifyPixels.py").write_text(FUNCTION)
    (folder / "model_metrics.html").write_text("<b>roofs</b>")
    (folder / "ModelCharacteristics" / "loss_graph.png").write_bytes(b"\x89PNG")
    (folder / "ModelCharacteristics" / "training_validation_loss.json").write_text("{}")
    Emd({**DOCUMENT, "ModelFile": f"{name}.pth"}).write(folder / f"{name}.emd")
    return ModelFolder(folder)


def make_package(folder: Path, name: str = "roofs", weights: bytes = b"weights") -> Path:
    return pack(make_model(folder / name, name, weights), folder / f"{name}.dlpk")


@pytest.fixture
def model(tmp_path: Path) -> ModelFolder:
    return make_model(tmp_path / "model")


@pytest.fixture
def dlpk(tmp_path: Path) -> Path:
    return make_package(tmp_path / "packed")


@pytest.fixture
def zipped(tmp_path: Path) -> Callable[..., Path]:
    """A .dlpk made by somebody else: any members, in any order, beside a plausible definition."""

    def make(*members: tuple[str | zipfile.ZipInfo, bytes], emd: str = "m.emd", name: str = "m.dlpk") -> Path:
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            if emd:
                archive.writestr(emd, json.dumps(DOCUMENT))
            for member, content in members:
                archive.writestr(member, content)
        return tmp_path / name

    return make


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one takes more than a second."""
    path = tmp_path_factory.mktemp("mlflow-template") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def mlflow_home(dlpk_home: Path, mlflow_template: Path) -> Path:
    """A home whose MLflow database is there already."""
    shutil.copy(mlflow_template, dlpk_home / "mlflow.db")
    return dlpk_home


@pytest.fixture
def published(tmp_path: Path, mlflow_home: Path) -> Callable[..., Version]:
    """Publish a package of these weights."""

    def do(
        weights: bytes = b"weights", name: str = "roofs", *, made: dict[str, Any] | None = None, **scores: float
    ) -> Version:
        dlpk = make_package(tmp_path / f"{name}-{weights.decode()}", name, weights)
        return publish(dlpk, scores=scores, data_digest="d1", git_commit="c1", made=made)

    assert mlflow_home.is_dir()
    return do


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with seaweed(tmp_path_factory.mktemp("weed"), "models") as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as uri:
        yield uri


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Point the settings at an S3 server; the URI of an empty place on it."""

    def point(endpoint: str) -> str:
        for name, value in s3_environment(endpoint).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("registry.stores.s3.PART", SMALLEST_PART)
        return f"s3://models/{uuid.uuid4()}"

    return point
