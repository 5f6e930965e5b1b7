"""Figures of this machine; those of servers are asked for in tests/e2e/test_topology.py."""

import sys
from pathlib import Path

import pytest

from infra import figures


def test_what_a_device_does_not_tell_costs_no_other_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smi.py").write_text("print('0, [N/A], 1024')\nprint('1, 37, 2048')")
    monkeypatch.setattr(figures, "SMI", [sys.executable, str(tmp_path / "smi.py")])
    monkeypatch.setenv("DLPK_GPUS", "0,1")
    told = {gauge.name: [sample.value for sample in gauge.samples] for gauge in figures._gpus()}
    assert {"dlpk_gpu_use_percent": [37.0], "dlpk_gpu_memory_bytes": [2**30, 2**31]}.items() <= told.items()
