"""A definition query chooses features before anything else happens to them."""

from pathlib import Path

import geopandas
import pytest

from registry.errors import LabelError, OptionsError
from tasks import town
from tasks.exporting.label_sources import Labels
from tasks.exporting.label_tables import read_table
from tasks.exporting.options import ExportOptions
from tasks.labels import read_features
from tasks.tables import write_rows


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_only_features_that_meet_the_query_count(tmp_path: Path, suffix: str) -> None:
    _, labels = town.write(tmp_path)
    every = read_features(labels)
    if suffix == ".parquet":
        table = geopandas.read_file(labels)
        labels = tmp_path / "town.parquet"
        table.assign(box=[{"xmin": 0}] * len(table)).to_parquet(labels)
    value = int(every.values[0])
    chosen = read_features(labels, query=f"Classvalue = {value}")
    assert [value] == sorted(set(chosen.values.tolist()))
    assert len(chosen.values) == (every.values == value).sum()


def test_a_query_that_no_feature_meets_is_told(tmp_path: Path) -> None:
    _, labels = town.write(tmp_path)
    with pytest.raises(LabelError, match="has no feature; choose another file or definition_query"):
        read_features(labels, query="Classvalue > 9")


@pytest.mark.parametrize("suffix", [".csv", ".dbf"])
def test_only_rows_of_a_table_that_meet_the_query_count(tmp_path: Path, suffix: str) -> None:
    rows = [{"image": "a.tif", "good": 1}, {"image": "b.tif", "good": 0}, {"image": "c.tif", "good": 2}]
    table = write_rows(tmp_path / f"labels{suffix}", rows)
    assert ["a.tif", "c.tif"] == read_table(table, "good IN (1, 2)")["image"].tolist()
    with pytest.raises(LabelError, match=r"definition_query cannot be asked \(.*, got 'goood = 1'; .* image, good"):
        read_table(table, "goood = 1")


def test_a_query_chooses_no_pixels(tmp_path: Path) -> None:
    imagery, _ = town.write(tmp_path)
    options = ExportOptions(metadata_format="Classified_Tiles", definition_query="Value = 1")
    with pytest.raises(OptionsError, match=r"town.tif: definition_query chooses among features"):
        Labels.read(imagery, options)


def test_a_query_that_is_no_sql_is_told(tmp_path: Path) -> None:
    _, labels = town.write(tmp_path)
    with pytest.raises(LabelError, match="cannot be opened as features .*; check definition_query"):
        read_features(labels, query="nothing like = = this")
