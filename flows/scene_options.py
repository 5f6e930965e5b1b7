"""The dials of a run over new scenes."""

from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from registry.ledger import LEASE
from registry.scenes import SUFFIXES, Scene, Search
from tasks.options import Options


class NewScenes(Options):
    """Which scenes are new, and how they are shared out."""

    rerun: Literal["none", "all", "since"] = Field(
        "none", description="what a new champion does again: nothing that an earlier version has done, all, or by date"
    )
    since: str = Field("", description="with rerun since: ISO date; scenes taken then or later are done again")
    batch: int = Field(16, ge=1, le=1000, description="scenes that one interpreter does with one loading of libraries")
    runs: int = Field(1, ge=1, le=1000, description="flow runs of this deployment that share the scenes, this one too")
    most_failures: int = Field(3, ge=1, description="failed attempts after which a scene is left alone")
    lease: float = Field(
        LEASE, ge=1, description="seconds of silence after which another worker's scenes are taken over"
    )
    settle: float = Field(60.0, ge=0, description="seconds that a file must have been left alone: it may still grow")
    suffixes: tuple[str, ...] = Field(SUFFIXES, description="which files are scenes")
    collections: tuple[str, ...] = Field((), description="of a STAC API: collections to search")
    bbox: tuple[float, ...] = Field((), description="of a STAC API: west, south, east, north in degrees")
    dates: str = Field("", description="of a STAC API: 2026-01-01/.. or 2026-03")
    query: dict[str, Any] = Field(
        default_factory=dict, description='of a STAC API with the Query extension: {"eo:cloud_cover": {"lt": 20}}'
    )
    asset: str = Field(
        "",
        description="of a STAC item: the asset to read, or several that are its bands in this order, red,green,nir;"
        " none: its only data raster",
    )
    bands: tuple[str, ...] = Field(
        (),
        description="of scenes whose bands are files: a pattern for each band in their order, such as *_B02.tif or"
        " R10m/*_B02_10m.jp2; * is alike in all files of a scene",
    )

    @property
    def search(self) -> Search:
        """What the source is asked."""
        names = Search.__dataclass_fields__
        return Search(**{name: getattr(self, name) for name in names})

    def again(self, scene: Scene) -> bool:
        """Whether a scene that an earlier version has done is done again."""
        return self.rerun == "all" or (self.rerun == "since" and scene.since(self._day()))

    def _day(self) -> datetime:
        day = datetime.fromisoformat(self.since)
        return day if day.tzinfo else day.replace(tzinfo=UTC)

    @field_validator("suffixes")
    @classmethod
    def _with_dots(cls, suffixes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f".{suffix.lower().lstrip('.')}" for suffix in suffixes)

    @field_validator("bands")
    @classmethod
    def _tell_bands_apart(cls, bands: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(bands)) < len(bands) or any(pattern.count("*") != 1 for pattern in bands):
            raise ValueError(f"expected different patterns with one * each, such as *_B02.tif, got {list(bands)}")
        return bands

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.rerun == "since":
            try:
                self._day()
            except ValueError as error:
                raise ValueError(f"since: expected an ISO date such as 2026-03-01, got {self.since!r}") from error
        if self.bbox and len(self.bbox) != 4:
            raise ValueError(f"bbox: expected west, south, east, north, got {len(self.bbox)} numbers")
        return self
