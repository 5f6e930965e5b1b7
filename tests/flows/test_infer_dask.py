"""One raster on a Dask cluster: real processes, the same bytes as at home."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from prefect.testing.utilities import prefect_test_harness

from registry.dlpk import ModelFolder
from registry.errors import RasterFunctionError
from tasks.classify_pixels import classify_pixels
from tasks.inference_options import ClassifyOptions

pytest.importorskip("prefect_dask", reason="the extra dask is not installed")
CLUSTER: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
THREADS: dict[str, Any] = {"n_workers": 1, "processes": False, "dashboard_address": None}  # starts at once
FUNCTION = """
class Brighter:
    def initialize(self, **values):
        pass

    def getParameterInfo(self):
        return [{"name": "level", "dataType": "numeric", "value": "100"}]

    def getConfiguration(self, **scalars):
        self.level = float(scalars["level"])
        return {"tx": 512, "ty": 512, "inputMask": False}

    def updateRasterInfo(self, **told):
        told["output_info"].update(bandCount=1, pixelType="u1")
        return told

    def updatePixels(self, tlc, shape, props, raster_pixels):
        assert self.level >= 0, "a level below 0"
        return {"output_pixels": (raster_pixels[:1] > self.level).astype("u1")}
"""


def model_in(folder: Path) -> ModelFolder:
    from registry.emd import Emd

    folder.mkdir()
    (folder / "Brighter.py").write_text(FUNCTION)
    classes = [{"Value": 1, "Name": "Bright", "Color": [255, 255, 0]}]
    document: dict[str, Any] = {
        "Framework": "PyTorch",
        "ModelConfiguration": "none",
        "ModelType": "ImageClassification",
    }
    document |= {"InferenceFunction": "Brighter.py", "ModelFile": "Brighter.py", "ImageHeight": 512, "ImageWidth": 512}
    Emd({**document, "Classes": classes}).write(folder / "bright.emd")
    return ModelFolder(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Dask's own servers
def test_a_cluster_gives_the_bytes_of_one_process_and_the_errors_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.infer_dask import infer_on_dask

    monkeypatch.setenv("DLPK_TRUSTED", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    model, image = model_in(tmp_path / "models" / "bright"), tmp_path / "noise.tif"
    pixels = np.random.default_rng(3).integers(0, 200, (1, 5000, 4200), np.uint8)
    profile = {"driver": "GTiff", "count": 1, "height": 5000, "width": 4200, "dtype": "uint8", "crs": "EPSG:32633"}
    with rasterio.open(image, "w", **profile, transform=rasterio.Affine(1, 0, 500000, 0, -1, 4600000)) as raster:
        raster.write(pixels)
    at_home = classify_pixels(model, image, tmp_path / "home.tif", ClassifyOptions())
    bad = ClassifyOptions(arguments={"level": "-1"})
    with prefect_test_harness(server_startup_timeout=120):  # one server for all; else each worker starts its own
        on_dask = infer_on_dask(model, (image,), tmp_path / "dask.tif", ClassifyOptions(), shares=4, **CLUSTER)
        with pytest.raises(RasterFunctionError, match="a level below 0"):
            infer_on_dask(model, (image,), tmp_path / "bad.tif", bad, shares=2, **THREADS)
    assert at_home.read_bytes() == on_dask.read_bytes()
