"""What a publication leaves behind, whoever else publishes at the same moment and whenever it is killed."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from registry import catalog
from registry.catalog import Version, manifest_of
from registry.dlpk import inspect
from registry.emd import Emd, ModelType
from registry.errors import PackageError
from registry.promotion import promote
from registry.publishing import publish
from registry.settings import settings
from registry.stac import item
from registry.stores import open_store
from tests.registry.conftest import DOCUMENT, make_package

Publish = Callable[..., Version]


def test_the_manifest_tells_what_it_was_made_from(published: Publish) -> None:
    promote("roofs", published(b"one").number)
    evaluation = {"primary": "AP50", "AP50": 0.6, "intervals": {"AP50": [0.5, 0.7]}}
    manifest = manifest_of(published(b"two", made={"recipe": {"name": "roofs"}, "evaluation": evaluation}))
    assert (evaluation, {"name": "roofs"}) == (manifest["evaluation"], manifest["recipe"])
    assert ("roofs@1", "d1", "c1") == (manifest["parent"], manifest["data_digest"], manifest["git_commit"])
    assert {"Python", "torch"} <= manifest["environment"].keys()
    assert {64} == {len(digest) for digest in manifest["members"].values()}


def test_the_first_version_has_no_parent(published: Publish) -> None:
    assert "" == published().parent


@pytest.mark.slow
def test_publishers_at_the_same_moment_get_different_versions(mlflow_home: Path, tmp_path: Path) -> None:
    packages = [make_package(tmp_path / str(i), weights=bytes([65 + i])) for i in range(6)]
    with ThreadPoolExecutor(6) as threads:
        jobs = [threads.submit(publish, p, scores={}, data_digest="", git_commit="") for p in packages]
    assert [1, 2, 3, 4, 5, 6] == sorted(job.result().number for job in jobs)
    assert 6 == catalog.find_version("roofs@challenger").number
    assert mlflow_home.is_dir()


@pytest.mark.slow
def test_publishers_killed_at_random_moments_show_all_or_nothing_and_the_next_run_completes_them(
    tmp_path: Path,
) -> None:
    script = Path(__file__).resolve().parents[1] / "bench" / "bench_kills.py"  # there 200 times, and on S3
    command = [sys.executable, "-W", "ignore", str(script), str(tmp_path), "--kills", "4", "--megabytes", "4"]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seen = {what.strip(): int(count) for what, count in re.findall(r"^([a-z ]+?) +(\d+)$", told, re.MULTILINE)}
    assert (4, 0, 0, 0) == (
        seen["killed"],
        seen["half shown or lost"],
        seen["left behind"],
        seen["rivals that failed"],
    )
    assert seen["completed by the next run"] == seen["killed"] + seen.get("done before the kill", 0)


def test_a_version_is_described_with_its_properties_and_its_making(published: Publish) -> None:
    published(made={"recipe": {"name": "roofs"}}, AP50=0.5)
    told = catalog.described("roofs")
    assert ("roofs@1", "unet", {"AP50": 0.5}, "roofs") == (
        told["ref"],
        told["model_configuration"],
        told["scores"],
        told["recipe"]["name"],
    )
    assert {"value": 1, "name": "roof", "color": [230, 60, 40]} == told["classes"][0]


# -- STAC --------------------------------------------------------------------------------------------------------------
def test_a_stac_item_lies_beside_every_version(published: Publish) -> None:
    version = published(AP50=0.5)
    document = json.loads(open_store(settings().store).get_bytes(f"roofs/{version.sha256}/item.json"))
    assert ("Feature", None) == (document["type"], document["geometry"])
    assert "https://stac-extensions.github.io/mlm/v1.4.0/schema.json" in document["stac_extensions"]
    told = document["properties"]
    assert ("roofs", "unet", ["semantic-segmentation"]) == (
        told["mlm:name"],
        told["mlm:architecture"],
        told["mlm:tasks"],
    )
    assert [-1, 3, 64, 64] == told["mlm:input"][0]["input"]["shape"]
    assert ["Red", "Green", "Blue"] == [
        band if isinstance(band, str) else band["name"] for band in told["mlm:input"][0]["bands"]
    ]
    assert ["E63C28", "0000FF"] == [entry["color_hint"] for entry in told["mlm:output"][0]["classification:classes"]]
    assert (version.uri, ["mlm:model"]) == (document["assets"]["model"]["href"], document["assets"]["model"]["roles"])


def test_the_item_is_read_back_by_the_library(published: Publish) -> None:
    import pystac
    from pystac.extensions.mlm import MLMExtension

    version = published()
    document = json.loads(open_store(settings().store).get_bytes(f"roofs/{version.sha256}/item.json"))
    model = MLMExtension.ext(pystac.Item.from_dict(document))
    assert (True, [64, 64]) == (model.pretrained, model.output[0].result.shape[1:])


MANIFEST: dict[str, Any] = {
    "name": "m",
    "sha256": "0" * 64,
    "size": 1,
    "created": "2026-01-01T00:00:00+00:00",
    "tags": [],
    "framework": "PyTorch",
    "scores": {"AP50": 0.5},
    "cell_size": 0.5,
}
ODD: list[dict[str, Any]] = [
    {"ExtractBands": None, "InputRastersProps": None},
    {"ExtractBands": [0, 7], "InputRastersProps": {"BandNames": [""]}},
    {"Classes": [{"Value": 1, "Name": "Dächer / roofs", "Color": [1, 2, 3]}, {"Value": 2, "Name": " "}]},
    {"Description": 5, "BatchSize": -3, "ModelConfiguration": {"Name": "MaskRCNN"}},
]


@pytest.mark.parametrize("kind", ModelType)
@pytest.mark.parametrize("odd", ODD)
def test_the_item_of_any_model_keeps_the_rules_of_stac_and_of_the_extension(kind: str, odd: dict[str, Any]) -> None:
    document = item(Emd(DOCUMENT).replace(ModelType=kind, **odd), MANIFEST, "file:///m.dlpk")  # STAC's own it checks
    told, asset = document["properties"], document["assets"]["model"]
    [given], [result] = told["mlm:input"], told["mlm:output"]
    assert (
        given["bands"]
        == [band["name"] for band in told.get("bands", [])]
        == [b["name"] for b in asset.get("bands", [])]
    )
    assert all(given["bands"])
    assert all(re.fullmatch("[a-z-_]+", name) for name in given["input"]["dim_order"] + result["result"]["dim_order"])
    assert all(re.fullmatch("[0-9A-Za-z_-]+", one["name"]) for one in result["classification:classes"])
    assert {"file:size", "file:checksum", "mlm:artifact_type"} <= asset.keys()
    assert any("/file/v2" in extension for extension in document["stac_extensions"])


def test_an_extent_that_is_none_is_refused(dlpk: Path) -> None:
    made = {**MANIFEST, "extent": {"bbox": [1, 2], "geometry": {"type": "Polygon", "coordinates": "here"}}}
    with pytest.raises(PackageError, match=r"its STAC item is not valid .*; give the extent as") as caught:
        item(inspect(dlpk).emd, made, "file:///m.dlpk")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model_type", "task"),
    [("ObjectDetection", "object-detection"), ("PointCloudClassification", "regression"), ("llm", "regression")],
)
def test_every_kind_of_model_has_a_task(dlpk: Path, model_type: str, task: str) -> None:
    emd = inspect(dlpk).emd.replace(ModelType=model_type)
    assert [task] == item(emd, MANIFEST, "file:///m.dlpk")["properties"]["mlm:tasks"]
