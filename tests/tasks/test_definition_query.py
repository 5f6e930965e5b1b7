"""A definition query chooses features before anything else happens to them."""

from pathlib import Path

import pytest

from registry.errors import LabelError
from tasks import town
from tasks.labels import read_features


def test_only_features_that_meet_the_query_count(tmp_path: Path) -> None:
    _, labels = town.write(tmp_path)
    every = read_features(labels)
    value = int(every.values[0])
    chosen = read_features(labels, query=f"Classvalue = {value}")
    assert [value] == sorted(set(chosen.values.tolist()))
    assert len(chosen.values) == (every.values == value).sum()


def test_a_query_that_is_no_sql_is_told(tmp_path: Path) -> None:
    _, labels = town.write(tmp_path)
    with pytest.raises(LabelError, match="cannot be opened as features"):
        read_features(labels, query="nothing like = = this")
