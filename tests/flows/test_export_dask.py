"""An export on a Dask cluster: real processes, the same bytes as at home."""

from pathlib import Path
from typing import Any

import pytest
from prefect.testing.utilities import prefect_test_harness

from registry.errors import LabelError
from tasks import town
from tasks.export import ExportOptions, export_training_data

pytest.importorskip("prefect_dask", reason="the extra dask is not installed")
CLUSTER: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}


def content(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".receipt.json")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Dask's own servers
def test_a_cluster_gives_the_bytes_of_one_process_and_the_errors_too(tmp_path: Path) -> None:
    from distributed import LocalCluster

    from flows.export_dask import export_on_dask

    scene = town.write(tmp_path / "town", repeat=6, noise=5)
    options, bad = ExportOptions(tile_size=32, stride=24), ExportOptions(class_value_field="kind")
    at_home = export_training_data(*scene, tmp_path / "home/chips", options, workers=1)
    # one server for all; else each worker starts its own
    cluster_of: Any = LocalCluster  # dask has no types
    with prefect_test_harness(server_startup_timeout=120), cluster_of(**CLUSTER) as cluster:
        address = cluster.scheduler_address
        on_dask = export_on_dask(*scene, tmp_path / "dask/chips", options, scheduler=address)
        with pytest.raises(LabelError, match="no field 'kind'"):
            export_on_dask(*scene, tmp_path / "bad", bad, scheduler=address)
    assert content(at_home.path) == content(on_dask.path)
