"""What features of a result must not take the place of; asked before the work."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError

from registry.errors import OptionsError
from tasks.feature_files import layer_to_read
from tasks.layers import address, file_of
from tasks.results import SHORT, driver_of


def check_out(out: Path, *read: str | None) -> None:
    """For the result of a model, beside the features that it reads. Raises as the others here, and `driver_of`."""
    driver_of(out)
    refuse_replacing(read, out)
    refuse_foreign(out)


def refuse_replacing(read: Iterable[str | None], result: Path) -> None:
    """Raises OptionsError where a result would take the place of features that are read.

    It would where both are in one file; in a GeoPackage, whose other layers stay, where they have one name.
    """
    for given in filter(None, read):
        path = Path(given)
        if address(path) or file_of(path).resolve() != result.resolve():
            continue
        if result.suffix.lower() != ".gpkg" or layer_to_read(path) == result.stem:
            do = "choose another file for the result"
            raise OptionsError("holds features that are read, and would be replaced", where=result, do=do)


def refuse_foreign(out: Path) -> None:
    """Raises OptionsError where `out` holds features that no model told: nobody's labels are replaced by a result."""
    if out.is_file() and (names := _fields(out)) and not {"ModelVersion", SHORT["ModelVersion"]} & {*names}:
        do = "choose another OUT, or delete it if nobody needs it"
        raise OptionsError("holds features that are no result of a model, and would be replaced", where=out, do=do)


def _fields(out: Path) -> list[str]:
    """Of what a result would replace; none where it holds no features, or cannot be read."""
    with suppress(DataLayerError, DataSourceError, OSError, ValueError):
        if driver_of(out) == "Parquet":
            return pyarrow.parquet.read_schema(out).names if pyarrow.parquet.read_metadata(out).num_rows else []
        facts = pyogrio.read_info(out, layer=out.stem if out.suffix.lower() == ".gpkg" else None)
        return [*facts["fields"], "geometry"] if facts["features"] else []
    return []
