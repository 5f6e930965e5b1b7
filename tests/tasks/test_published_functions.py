"""Packages in the shapes in which people publish them: a function, a helper folder for its framework, weights beside.

Written after the contract (ArcGIS formats E.1, E.10); what they give is what their framework gives on its own.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from registry.dlpk import ModelFolder
from registry.emd import Emd
from registry.errors import RasterFunctionError
from tasks.classify_pixels import classify_pixels
from tasks.host import RasterFunction
from tasks.inference_options import ClassifyOptions

OUTER = """
import importlib, json, os, sys
sys.path.append(os.path.dirname(__file__))
import steps

class ImageClassifier:
    def initialize(self, **kwargs):
        os.environ["CUDA_VISIBLE_DEVICES"] = str(kwargs["device"])
        try:
            with open(kwargs["model"]) as file:
                self.emd = json.load(file)
            folder = os.path.dirname(kwargs["model"])
        except FileNotFoundError:
            self.emd, folder = json.loads(kwargs["model"]), ""
        inner = importlib.import_module(self.emd["Framework"] + "." + self.emd["ModelConfiguration"])
        self.inner = inner.Inner(os.path.abspath(os.path.join(folder, self.emd["ModelFile"])))
    def getParameterInfo(self):
        return [{"name": "raster", "dataType": "raster", "required": True},
                {"name": "model", "dataType": "string", "required": True},
                {"name": "padding", "dataType": "numeric", "value": 0, "required": False}]
    def getConfiguration(self, **scalars):
        self.padding = int(scalars["padding"])
        step = steps.step(self.emd["ImageHeight"], self.padding)
        return {"extractBands": tuple(self.emd["ExtractBands"]), "padding": self.padding, "tx": step, "ty": step,
                "fixedTileSize": 0}
    def updateRasterInfo(self, **kwargs):
        kwargs["output_info"].update(bandCount=1, pixelType="u1")
        return kwargs
    def selectRasters(self, tlc, shape, props):
        '''Left as it was in the template.'''
    def updatePixels(self, tlc, shape, props, raster_pixels, raster_mask):
        tile = steps.filled(raster_pixels, self.emd["ImageHeight"])
        scores = self.inner.scores(tile[None])[0]
        p = self.padding
        return {"output_pixels": scores.argmax(0)[None, p : tile.shape[1] - p, p : tile.shape[2] - p] + 1}
"""
STEPS = """
import numpy as np

def step(size, padding):
    return size - 2 * padding

def filled(block, size):
    tile = np.zeros((len(block), size, size), dtype=np.float)
    tile[:, : block.shape[1], : block.shape[2]] = block
    return np.array(tile, dtype="f4", copy=False)
"""
INNER = {
    "Onnx": """
import os, sys
sys.path.append(os.path.join(os.path.dirname(__file__), os.pardir))
import onnxruntime
import steps

class Inner:
    def __init__(self, path):
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    def scores(self, batch):
        return self.session.run(None, {"image": batch})[0]
""",
    "TorchScript": """
import torch

class Inner:
    def __init__(self, path):
        self.network = torch.jit.load(path, map_location="cpu").eval()
    def scores(self, batch):
        with torch.inference_mode():
            return self.network(torch.from_numpy(batch)).numpy()
""",
}
LAND = """
class Inner:
    def __init__(self, path):
        open(path).close()
    def scores(self, batch):
        return batch
"""
WEIGHTS = np.random.default_rng(4).normal(size=(3, 3, 3, 3)).astype(np.float32)  # 3 classes of 3 bands, 3 x 3


@pytest.fixture
def published(tmp_path: Path) -> Any:
    """published("Onnx") -> a package of that framework without its weights, which belong in models/net.bin."""

    def make(framework: str, **keys: Any) -> ModelFolder:
        folder = tmp_path / "published"
        (folder / framework).mkdir(parents=True)
        (folder / "models").mkdir()
        (folder / "ImageClassifier.py").write_text(OUTER)
        (folder / "steps.py").write_text(STEPS)
        (folder / framework / "Land.py").write_text(INNER[framework])
        document: dict[str, Any] = {"Framework": framework, "ModelConfiguration": "Land"}
        document |= {"ModelType": "ImageClassification", "InferenceFunction": ".\\ImageClassifier.py"}
        document |= {"ModelFile": ".\\models\\net.bin", "ExtractBands": [0, 1, 2], "ImageHeight": 64, "ImageWidth": 64}
        classes = [{"Value": v, "Name": n, "Color": [80 * v, 0, 0]} for v, n in enumerate(("Roof", "Pond", "Lawn"), 1)]
        Emd({**document, "Classes": classes, **keys}).write(folder / "published.emd")
        return ModelFolder(folder)

    return make


def save_onnx(path: Path) -> Any:
    """Write one convolution as ONNX; what onnxruntime makes of a whole image with it."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    make = onnx.helper
    node = make.make_node("Conv", ["image", "weights"], ["scores"], pads=[1, 1, 1, 1])
    sides = [make.make_tensor_value_info(n, 1, ["n", 3, "rows", "cols"]) for n in ("image", "scores")]
    graph = make.make_graph([node], "land", sides[:1], sides[1:], [onnx.numpy_helper.from_array(WEIGHTS, "weights")])
    onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=9), path)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image[None]})[0][0]


def save_torch(path: Path) -> Any:
    """Write the same convolution as TorchScript; what torch makes of a whole image with it."""
    network = torch.nn.Conv2d(3, 3, 3, padding=1, bias=False)
    network.load_state_dict({"weight": torch.from_numpy(WEIGHTS)})
    torch.jit.trace(network, torch.zeros(1, 3, 64, 64)).save(str(path))  # type: ignore[no-untyped-call]
    return lambda image: network(torch.from_numpy(image[None]))[0].detach().numpy()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize(("framework", "save"), [("Onnx", save_onnx), ("TorchScript", save_torch)])
def test_a_published_package_gives_what_its_framework_gives(
    framework: str, save: Any, published: Any, make_raster: Any, tmp_path: Path
) -> None:
    model = published(framework)
    direct = save(model.path / "models" / "net.bin")
    pixels = np.random.default_rng(5).integers(0, 255, (3, 100, 150), np.uint8)
    options = ClassifyOptions(arguments={"padding": "4"}, trust=True)
    out = classify_pixels(model, make_raster(pixels), tmp_path / "out.tif", options)
    with rasterio.open(out) as result:
        assert np.array_equal(direct(pixels.astype(np.float32)).argmax(0) + 1, result.read(1))


@pytest.fixture
def land(published: Any) -> ModelFolder:
    """The same without a framework: a pixel's class is its brightest band."""
    model: ModelFolder = published("TorchScript")
    (model.path / "TorchScript" / "Land.py").write_text(LAND)
    (model.path / "models" / "net.bin").touch()
    return model


BLOCK, VALID = np.random.default_rng(6).integers(0, 255, (3, 40, 64), np.uint8), np.ones((40, 64), bool)


def test_a_smaller_block_that_a_function_fills_up_is_cut_again(land: ModelFolder) -> None:
    answer = RasterFunction.load(land).update_pixels(BLOCK, VALID)
    assert np.array_equal(BLOCK.argmax(0)[None] + 1, answer)


def test_a_card_that_a_function_hides_is_hidden_for_itself_alone(
    land: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    function = RasterFunction.load(land)
    assert "0,1" == os.environ["CUDA_VISIBLE_DEVICES"]
    with function.inside():
        assert "-1" == os.environ["CUDA_VISIBLE_DEVICES"]
    assert "0,1" == os.environ["CUDA_VISIBLE_DEVICES"]


def test_folders_that_a_function_adds_to_the_path_are_there_at_every_call(land: ModelFolder) -> None:
    (land.path / "some-library").mkdir()
    (land.path / "some-library" / "inside.py").write_text("import late_neighbour")
    (land.path / "some-library" / "late_neighbour.py").touch()
    file = land.path / "ImageClassifier.py"
    more = "sys.path.insert(0, os.path.join(os.path.dirname(__file__), 'some-library'))"
    text = OUTER.replace("        try:", f"        {more}\n        try:", 1)
    file.write_text(text.replace("        tile =", "        import inside\n        tile =", 1))
    before = list(sys.path)
    function = RasterFunction.load(land)
    for _ in range(2):
        assert (1, 40, 64) == function.update_pixels(BLOCK, VALID).shape
    assert before == sys.path
    assert not {"inside", "late_neighbour"} & set(sys.modules)


@pytest.mark.parametrize("named", [r"[Functions]System\DeepLearning\ImageClassifier.py", None])
def test_an_open_function_of_arcgis_is_run_where_the_package_brings_it(land: ModelFolder, named: str | None) -> None:
    land.emd.replace(InferenceFunction=named).write(land.emd_path)
    assert "ImageClassifier" == RasterFunction.load(ModelFolder(land.path)).name
    (land.path / "ImageClassifier.py").unlink()
    with pytest.raises(RasterFunctionError, match=r"needs ArcGIS.* put ImageClassifier.py of Esri's open"):
        RasterFunction.load(ModelFolder(land.path))


def test_a_function_may_speak_of_arcpy_without_importing_it(land: ModelFolder) -> None:
    file = land.path / "ImageClassifier.py"
    file.write_text(OUTER.replace("        try:", '        arcpy.env.processorType = "CPU"\n        try:', 1))
    assert "ImageClassifier" == RasterFunction.load(land).name


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
def test_a_missing_framework_is_named_with_the_extra_that_brings_it(
    library: str, land: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    (land.path / "TorchScript" / "Land.py").write_text(f"import {library}")
    with pytest.raises(RasterFunctionError, match=rf"has {library}, e.g. pip install 'dlpk-flows\[onnx\]'"):
        RasterFunction.load(land)


def test_a_definition_without_weights_of_its_own_is_run(land: ModelFolder) -> None:
    """Functions around a library that holds the weights publish none (text prompts, indexes)."""
    document = json.loads(land.emd_path.read_text())
    (land.path / "TorchScript" / "Land.py").write_text(LAND.replace("open(path).close()", "pass"))
    file = land.path / "ImageClassifier.py"
    file.write_text(OUTER.replace('self.emd["ModelFile"]', '"none"'))
    land.emd_path.write_text(json.dumps({key: value for key, value in document.items() if key != "ModelFile"}))
    assert (1, 40, 64) == RasterFunction.load(ModelFolder(land.path)).update_pixels(BLOCK, VALID).shape


LABELLER = """
import json
import numpy as np

class Labeller:
    def initialize(self, **kwargs):
        pass
    def getParameterInfo(self):
        return [{"name": "rasters", "dataType": "rasters", "required": True},
                {"name": "batch_size", "dataType": "numeric", "value": 4, "required": False}]
    def getConfiguration(self, **scalars):
        self.batch_size = int(scalars["batch_size"])
        return {"tx": 8, "ty": 8, "batch_size": self.batch_size}
    def vectorize(self, rasters_pixels, rasters_mask):
        names = [["Dark", "Bright"][int(pixels.mean() > 99)] for pixels in rasters_pixels]
        told = [{"Label": names[i], "Confidence": str(np.float32(0.5))} for i in range(self.batch_size)]
        return {"output_vectors": json.dumps({"features": [{"attributes": row} for row in told]})}
"""


def test_a_function_that_counts_on_whole_batches_gets_them(land: ModelFolder) -> None:
    (land.path / "Labeller.py").write_text(LABELLER)
    land.emd.replace(InferenceFunction="Labeller.py", ModelType="ObjectClassification").write(land.emd_path)
    images = [(np.full((3, 8, 8), level, np.uint8), np.ones((8, 8), bool)) for level in (0, 200, 0, 0, 200)]
    found = RasterFunction.load(ModelFolder(land.path)).classify(images)
    assert ["Dark", "Bright", "Dark", "Dark", "Bright"] == [one.names[0] for one in found]
    assert {(0.5,)} == {one.confidences for one in found}


def test_a_raster_of_another_name_is_handed_over_under_that_name(land: ModelFolder) -> None:
    file = land.path / "ImageClassifier.py"
    text = OUTER.replace("raster_pixels", "dem_pixels").replace("raster_mask", "dem_mask")
    file.write_text(text.replace('"name": "raster"', '"name": "dem"'))
    assert np.array_equal(BLOCK.argmax(0)[None] + 1, RasterFunction.load(land).update_pixels(BLOCK, VALID))


def test_a_function_of_two_rasters_is_refused(land: ModelFolder) -> None:
    more = '{"name": "mask", "dataType": "raster", "required": True}, {"name": "model"'
    (land.path / "ImageClassifier.py").write_text(OUTER.replace('{"name": "model"', more))
    with pytest.raises(RasterFunctionError, match="works on several rasters, got 'raster, mask'"):
        RasterFunction.load(land)
