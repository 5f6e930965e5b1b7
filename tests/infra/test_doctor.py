"""What the doctor tells; tests/e2e/test_topology.py has it look at a whole topology."""

import pytest

from infra import doctor


class Answers:
    """An MLflow that is well."""

    def search_experiments(self, **_: object) -> list[object]:
        return []


def test_the_doctor_tells_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://mlflow:secret@db:5432/mlflow")
    monkeypatch.setattr(doctor, "connect", Answers)
    assert ["postgresql://mlflow@db:5432/mlflow"] == [finding.found for finding in doctor._mlflow()]
