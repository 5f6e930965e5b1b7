import pytest

from flows.triggers import trigger
from registry.errors import OptionsError
from registry.parameters import laid_over


def test_a_dotted_key_changes_one_place_and_keeps_the_rest() -> None:
    stored = {"recipe": {"name": "roofs", "train": {"epochs": 20, "network": "unet"}}}
    expected = {"recipe": {"name": "roofs", "train": {"epochs": 3, "network": "unet"}}}
    assert expected == laid_over(stored, {"recipe.train.epochs": 3})


def test_an_object_is_laid_over_an_object_at_any_depth() -> None:
    assert {"a": {"b": {"c": 1, "d": 2}}} == laid_over({"a": {"b": {"c": 1}}}, {"a": {"b": {"d": 2}}})


def test_what_is_not_there_yet_is_made() -> None:
    assert {"a": 1, "b": {"c": {"d": 2}}} == laid_over({"a": 1}, {"b.c.d": 2})


def test_what_was_stored_is_not_changed() -> None:
    stored = {"a": {"b": 1}}
    laid_over(stored, {"a.b": 2})
    assert {"a": {"b": 1}} == stored


def test_without_a_server_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(OptionsError, match="no Prefect server is set; export PREFECT_API_URL="):
        trigger("retrain", {})
