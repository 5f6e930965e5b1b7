"""Features that come one table after the other, written as they come: no format has them all in memory."""

import json
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path

import geopandas
import pandas
import pyarrow
import pyarrow.parquet
import pyogrio

from tasks.results import APPENDED_TO, copy_others, driver_of, workshop, write_pieces

BATCH = 16_384  # features in memory, and in a row group of GeoParquet


def stream_features(
    out: Path, tables: Iterable[geopandas.GeoDataFrame], metadata: Mapping[str, str], *, geometry_type: str
) -> Path:
    """Tables of the same columns and coordinate system, at least one, perhaps of no rows. `geometry_type` as of OGR.

    A GeoPackage holds `metadata`, too. What cannot be added to (GeoJSON, FlatGeobuf) is made of a GeoPackage.
    """
    driver, pieces = driver_of(out), _gathered(tables)
    with workshop(out) as folder:
        file = folder / out.name
        if driver == "Parquet":
            _write_parquet(file, pieces)
        elif driver in APPENDED_TO:
            copy_others(out, file)
            write_pieces(file, pieces, metadata, driver, geometry_type)
        else:
            draft = folder / "draft.gpkg"
            write_pieces(draft, pieces, {}, "GPKG", geometry_type)
            with pyogrio.open_arrow(draft) as (told, stream):
                place = {"geometry_name": told["geometry_name"], "geometry_type": geometry_type, "crs": told["crs"]}
                pyogrio.write_arrow(stream, file, layer=out.stem, driver=driver, **place)
            draft.unlink()
    return out


def _gathered(tables: Iterable[geopandas.GeoDataFrame]) -> Iterator[geopandas.GeoDataFrame]:
    """The same rows in tables of about BATCH."""
    held = list[geopandas.GeoDataFrame]()
    for table in tables:
        held.append(table)
        if sum(map(len, held)) >= BATCH:
            yield pandas.concat(held, ignore_index=True)
            held = []
    if held:
        yield pandas.concat(held, ignore_index=True)


def _write_parquet(file: Path, pieces: Iterator[geopandas.GeoDataFrame]) -> None:
    """A row group for each piece, as geopandas writes one, but for what it says of the bounds and types of all."""
    first = _as_arrow(next(pieces))
    about = json.loads(first.schema.metadata[b"geo"])
    column = about["columns"][about["primary_column"]]
    column["geometry_types"] = []  # GeoParquet: not known
    column.pop("bbox", None)
    schema = first.schema.with_metadata({**first.schema.metadata, b"geo": json.dumps(about).encode()})
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        writer.write_table(first.cast(schema))
        for piece in pieces:
            writer.write_table(_as_arrow(piece).cast(schema))


def _as_arrow(piece: geopandas.GeoDataFrame) -> pyarrow.Table:
    content = BytesIO()
    piece.to_parquet(content)
    return pyarrow.parquet.read_table(content)
