"""The dials of Export Training Data For Deep Learning, under the names they have in ArcGIS (ArcGIS formats F.1)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

import tasks.formats
from registry import plugins
from tasks.options import Options

Extent = tuple[float, float, float, float]
FORMATS = plugins.names(tasks.formats)
TILE, STRIDE = 256, 128  # pixels, unless told


def _known(name: str) -> str:
    if name not in FORMATS:
        raise ValueError(f"expected one of {', '.join(FORMATS)}")
    return name


def _without_default(schema: dict[str, Any]) -> None:
    """A form must leave a shorthand empty, or its default would win over what it is short for."""
    schema.pop("default", None)


MetadataFormat = Annotated[str, AfterValidator(_known), WithJsonSchema({"type": "string", "enum": FORMATS})]


class ExportOptions(Options):
    metadata_format: MetadataFormat = Field(
        "PASCAL_VOC_rectangles", description=f"form of the labels: {', '.join(FORMATS)}"
    )
    image_chip_format: Literal["TIFF", "PNG", "JPEG", "MRF"] = Field(
        "TIFF", description="file type of the chips; PNG and JPEG hold 8 bits and at most 3 bands"
    )
    compress: Literal["NONE", "DEFLATE"] = Field("NONE", description="compression of TIFF chips, without loss")
    tile_size: int = Field(
        TILE,
        ge=32,
        le=4096,
        exclude=True,
        json_schema_extra=_without_default,
        description="side of a square chip, in pixels of the working cell size; short for tile_size_x and tile_size_y",
    )
    tile_size_x: int = Field(TILE, ge=32, le=4096, description="width of a chip, in pixels")
    tile_size_y: int = Field(TILE, ge=32, le=4096, description="height of a chip, in pixels")
    stride: int = Field(
        STRIDE,
        ge=1,
        exclude=True,
        json_schema_extra=_without_default,
        description="step between chips, in pixels; as tile_size: no overlap; short for stride_x and stride_y",
    )
    stride_x: int = Field(STRIDE, ge=1, description="step between the columns of chips, in pixels")
    stride_y: int = Field(STRIDE, ge=1, description="step between the rows of chips, in pixels")
    output_nofeature_tiles: bool = Field(False, description="also write chips that hold no feature (ALL_TILES)")
    start_index: int = Field(0, ge=0, description="number of the first chip; above 0 adds to an export that is there")
    definition_query: str = Field(
        "",
        description="only labels that meet this SQL condition count, e.g. roof_value IN (1, 2); not in_instance_data",
    )
    class_value_field: str = Field("", description="field of the class; empty: Classvalue, class_value or Value")
    buffer_radius: float = Field(
        0.0, ge=0, description="radius that points and lines are widened by, in map units of the labels"
    )
    in_mask_polygons: str | None = Field(None, description="features; only chips completely inside them are cut")
    rotation_angle: float = Field(
        0.0, ge=0, lt=360, description="also cut chips turned by this angle, twice it, ... below 360, in degrees"
    )
    reference_system: Literal["MAP_SPACE", "PIXEL_SPACE", "IMAGE_SPACE"] = Field(
        "MAP_SPACE", description="coordinates of the export: of the map, or pixels of imagery that has no place on it"
    )
    processing_mode: Literal["PROCESS_AS_MOSAICKED_IMAGE", "PROCESS_ITEMS_SEPARATELY"] = Field(
        "PROCESS_ITEMS_SEPARATELY", description="several rasters: as one mosaic, the later above, or one by one"
    )
    blacken_around_feature: bool = Field(False, description="Labeled_Tiles: pixels outside the feature become 0")
    crop_mode: Literal["FIXED_SIZE", "BOUNDING_BOX"] = Field(
        "FIXED_SIZE", description="Labeled_Tiles: a chip of the tile size around each feature, or its bounding box"
    )
    in_raster2: str | None = Field(
        None, description="second raster, laid on the grid of the first: change detection, Export_Tiles, CycleGAN"
    )
    in_instance_data: str | None = Field(None, description="Panoptic_Segmentation: features of the objects")
    instance_class_value_field: str = Field("", description="field of the class in in_instance_data")
    min_polygon_overlap_ratio: float = Field(
        0.0, ge=0, le=1, description="a feature of which a smaller share lies in the chip is left out, 0-1"
    )
    cell_size: float | None = Field(None, gt=0, description="side of a pixel in map units; empty: that of the imagery")
    extent: Extent | None = Field(None, description="only cut inside xmin ymin xmax ymax, in the imagery's map units")
    max_nodata_share: float = Field(0.5, ge=0, lt=1, description="leave out chips with a larger share of nodata, 0-1")
    warp: bool = Field(
        False, description="bring rasters of another coordinate system, cell size or type to that of the first"
    )
    skip_unreadable: bool = Field(False, description="leave out and count chips whose pixels cannot be read")
    split: tuple[float, float, float] | None = Field(
        None, description="shares of training, validation and test chips, e.g. 0.8 0.1 0.1; empty: no split"
    )
    split_by: Literal["blocks", "scenes"] = Field("blocks", description="what is never divided between the parts")
    split_block_size: int | None = Field(
        None, ge=32, description="side of a block of the split, in pixels; empty: about 36 blocks of 1 to 8 chips' side"
    )
    oversample: bool = Field(False, description="cut more chips around features of rare classes")

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, given: Any) -> Any:
        """Shorthands win over what they are short for, and read as the x that is cut."""
        if not isinstance(given, Mapping):
            return given
        document = dict(given)
        for name, usual in (("tile_size", TILE), ("stride", STRIDE)):
            if document.get(name) is not None:
                document |= {f"{name}_x": document[name], f"{name}_y": document[name]}
            document[name] = document.get(f"{name}_x", usual)
        return document

    @model_validator(mode="after")
    def _shares_add_up(self) -> Self:
        if self.split and (min(self.split) < 0 or abs(sum(self.split) - 1) > 1e-6):
            raise ValueError("split: expected three shares of at least 0 that add up to 1")
        return self
