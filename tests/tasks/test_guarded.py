"""A stranger's raster function: refused, or run where it can do no harm."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from registry.catalog import fetch
from registry.dlpk import ModelFolder, open_model, pack
from registry.emd import Emd
from registry.errors import OptionsError, PackageError, RasterFunctionError
from registry.importing import import_model
from registry.publishing import publish
from tasks.classify_pixels import classify_pixels
from tasks.confinement import confine_writing
from tasks.evaluate import evaluate_model
from tasks.guarded import GuardedFunction, clean_environment
from tasks.inference_options import ClassifyOptions
from tasks.trust import is_ours, is_published, is_trusted
from tests.chips_by_hand import chip, write_chips

STRANGER = """
import json, os, signal, socket, time
import numpy as np

class Stranger:
    def initialize(self, **kwargs):
        self.memory = []
    def getParameterInfo(self):
        return [{"name": "raster", "dataType": "raster"},
                {"name": "act", "dataType": "string", "value": "work"},
                {"name": "padding", "dataType": "numeric", "value": "0"},
                {"name": "batch_size", "dataType": "numeric", "value": "1"},
                {"name": "place", "dataType": "string", "value": ""}]
    def getConfiguration(self, **scalars):
        self.scalars = scalars
        return {"extractBands": (0,), "tx": 32, "ty": 32, "padding": np.int64(0)}
    def updateRasterInfo(self, **kwargs):
        kwargs["output_info"].update(bandCount=1, pixelType="u1")
        return kwargs
    def updatePixels(self, tlc, shape, props, **pixelBlocks):
        if tlc[0] == 32:
            getattr(self, self.scalars["act"])()
        return {"output_pixels": pixelBlocks["raster_pixels"] // 100}
    def work(self):
        pass
    def crash(self):
        os.kill(os.getpid(), signal.SIGSEGV)
    def hang(self):
        time.sleep(60)
    def leak(self):
        while True:
            self.memory.append(np.ones(2**24))
    def write(self):
        with open(self.scalars["place"], "w") as file:
            file.write("I was here")
    def tell(self):
        raise RuntimeError(json.dumps(dict(os.environ)))
    def call(self):
        socket.create_connection(("127.0.0.1", int(self.scalars["place"])), timeout=5)
"""


@pytest.fixture
def stranger(tmp_path: Path) -> ModelFolder:
    folder = tmp_path / "stranger"
    folder.mkdir()
    (folder / "Stranger.py").write_text(STRANGER)
    (folder / "weights.pth").write_bytes(b"none")
    document = {"ModelType": "ImageClassification", "InferenceFunction": "Stranger.py", "ModelFile": "weights.pth"}
    classes = [{"Value": 1, "Name": "Roof", "Color": [230, 60, 40]}, {"Value": 2, "Name": "Pond", "Color": [0, 0, 9]}]
    keys = {"Framework": "PyTorch", "ModelConfiguration": "none", "ExtractBands": [0]}
    Emd({**document, **keys, "ImageHeight": 32, "ImageWidth": 32, "Classes": classes}).write(folder / "stranger.emd")
    return ModelFolder(folder)


@pytest.fixture
def image(make_raster: Any) -> Path:
    path: Path = make_raster(np.full((32, 80), 150, np.uint8))
    return path


def run(model: ModelFolder, image: Path, out: Path, act: str = "work", place: object = "", **limits: Any) -> Path:
    arguments = {"act": act, **({"place": str(place)} if place else {})}
    return classify_pixels(model, image, out, ClassifyOptions(arguments=arguments, trust=True, **limits))


@pytest.mark.slow
def test_an_evaluation_runs_a_strangers_code_as_inference_does(stranger: ModelFolder, tmp_path: Path) -> None:
    roof = chip(np.full((32, 32), 150, np.uint8), mask=np.ones((32, 32), np.uint8))
    known = [label.document() for label in stranger.emd.classes]
    held_out = write_chips(tmp_path / "held-out", [roof], known, "Classified_Tiles")
    with pytest.raises(OptionsError, match="give --trust"):
        evaluate_model(stranger, held_out, report=tmp_path / "report")
    assert 1 == evaluate_model(stranger, held_out, report=tmp_path / "report", trust=True).values["accuracy"]


def test_code_that_nobody_vouches_for_is_refused(stranger: ModelFolder, image: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionsError, match="stranger: holds code that this registry did not publish; .* --trust"):
        classify_pixels(stranger, image, tmp_path / "out.tif", ClassifyOptions())
    assert not (tmp_path / "out.tif").exists()


def test_what_we_ship_is_trusted_until_a_byte_is_changed_or_code_is_added(make_model: Any) -> None:
    folder = make_model("levels").path
    (folder / "levels.py").unlink()  # the network of the fixture is none of ours
    assert is_ours(folder)
    for name in ("numpy.py", "torch.so", "sub/_tiles.py", "late.pyc"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
        assert not is_ours(folder), name
        (folder / name).unlink()
    (folder / "link").symlink_to(folder.parent)  # ModelConfiguration may say link.anything
    assert not is_ours(folder)
    (folder / "link").unlink()
    with (folder / "_tiles.py").open("a") as file:
        file.write("\n")
    assert not is_ours(folder)


def test_a_package_without_code_cannot_run_that_of_another(make_model: Any, stranger: ModelFolder, image: Path) -> None:
    model = make_model("levels")
    for name in (f"../../{stranger.path.name}/Stranger.py", str(stranger.path / "Stranger.py")):
        model.emd.replace(InferenceFunction=name).write(model.emd_path)
        with pytest.raises(PackageError, match=r"names a file outside of the model's folder, got '.*Stranger\.py'"):
            classify_pixels(model, image, image.with_name("out.tif"), ClassifyOptions())
    with pytest.raises(PackageError, match="outside"):  # conversion writes where it says
        ModelFolder(model.emd.replace(ModelFile="../other.pth").write(model.emd_path).parent).weights  # noqa: B018


def test_what_lies_in_a_folder_of_ones_own_is_trusted(stranger: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_trusted(stranger)
    monkeypatch.setenv("DLPK_TRUSTED", f"/elsewhere:{stranger.path.parent}")
    assert is_trusted(stranger)


@pytest.mark.slow
def test_what_the_registry_published_is_trusted(stranger: ModelFolder, tmp_path: Path) -> None:
    package = pack(stranger, tmp_path / "stranger.dlpk")
    model = open_model(package)
    assert not is_published(model.path)
    publish(package, scores={}, data_digest="", git_commit="")
    assert is_trusted(model)
    assert not is_trusted(stranger)


@pytest.mark.slow
def test_what_was_imported_stays_a_stranger(stranger: ModelFolder, tmp_path: Path) -> None:
    package = pack(stranger, tmp_path / "stranger.dlpk")
    version, _ = import_model(package)
    assert version.imported
    assert not is_trusted(open_model(fetch(version.ref)))


@pytest.mark.slow
def test_a_trusted_stranger_works_and_a_bad_one_takes_down_only_itself(
    stranger: ModelFolder, image: Path, tmp_path: Path
) -> None:
    with rasterio.open(run(stranger, image, tmp_path / "good.tif")) as raster:
        assert [1] == np.unique(raster.read(1)).tolist()
    tile = "stranger: Stranger.*, tile at column 32, row 0: "
    for act, message, limits in (
        ("crash", tile + r"its process ended \(SIGSEGV\)", {}),
        ("hang", tile + "took longer than 3 s; give it more time", {"tile_seconds": 3}),
        ("leak", tile + ".*MemoryError.*give it more memory", {"memory_limit": 0.5}),
    ):
        with pytest.raises(RasterFunctionError, match=message):
            run(stranger, image, tmp_path / "bad.tif", act, **limits)
    tables = [f"good.tif.{end}" for end in ("aux.xml", "vat.cpg", "vat.dbf")]
    assert ["good.tif", *tables, "stranger", "town.tif"] == sorted(p.name for p in tmp_path.iterdir())


def test_one_process_is_enough_for_many_rasters(
    stranger: ModelFolder, make_raster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[ModelFolder] = []
    load = GuardedFunction.load

    def counted(model: ModelFolder, **given: Any) -> GuardedFunction:
        begun.append(model)
        return load(model, **given)

    monkeypatch.setattr(GuardedFunction, "load", counted)
    images = [make_raster(np.full((32, 40 + i), 100 + 100 * i, np.uint8), f"{i}.tif") for i in range(2)]
    options = ClassifyOptions.model_validate({"trust": True, "processing_mode": "PROCESS_ITEMS_SEPARATELY"})
    for _ in range(2):  # the second time nothing is left to do
        classify_pixels(stranger, images, tmp_path / "classes", options)
    assert 1 == len(begun)
    for i in range(2):
        with rasterio.open(tmp_path / f"classes/{i}.tif") as raster:
            assert [1 + i] == np.unique(raster.read(1)).tolist()


@pytest.mark.slow
def test_a_stranger_neither_sees_secrets_nor_writes_nor_calls(
    stranger: ModelFolder, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hush")
    with pytest.raises(RasterFunctionError) as told:
        run(stranger, image, tmp_path / "a.tif", "tell")
    assert "hush" not in str(told.value)
    assert "RuntimeError" in str(told.value)
    if not _kernel_confines():
        pytest.skip("this kernel has no Landlock")
    with pytest.raises(RasterFunctionError, match="PermissionError"):
        run(stranger, image, tmp_path / "a.tif", "write", tmp_path / "mark")
    assert not (tmp_path / "mark").exists()
    refused = pytest.raises(RasterFunctionError, match="PermissionError")
    with socket.create_server(("127.0.0.1", 0)) as server, refused:
        run(stranger, image, tmp_path / "a.tif", "call", server.getsockname()[1])


def test_the_environment_is_cleaned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_URI", "PREFECT_API_KEY", "HF_TOKEN", "DLPK_STORE"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    kept = clean_environment(tmp_path)
    assert "secret" not in json.dumps(kept)
    assert ("1", str(tmp_path), os.environ["PATH"]) == (kept["CUDA_VISIBLE_DEVICES"], kept["HOME"], kept["PATH"])


@pytest.mark.slow
def test_the_process_ends_with_its_function(stranger: ModelFolder) -> None:
    function = GuardedFunction.load(stranger, device=-1, arguments={}, memory=0, seconds=60)
    process, scratch = function._process, function._scratch
    assert (None, True) == (process.poll(), scratch.is_dir())
    assert (32, 32, 0) == (function.configuration.tx, function.configuration.ty, function.configuration.padding)
    del function
    assert process.poll() is not None
    assert not scratch.exists()


def _kernel_confines() -> bool:
    """In a process of its own: it cannot be taken back."""
    child = os.fork()
    if not child:
        os._exit(0 if confine_writing(Path("/tmp")) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
