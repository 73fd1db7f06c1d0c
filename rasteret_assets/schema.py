"""Every column name, Arrow type and footer key, in one place.

Four tables follow one another: raw records (whatever the provider wrote), normalized records (:data:`RECORD_FIELDS`
beside the user's own columns), band metadata (:data:`BAND_METADATA_SCHEMA`, one row per record and band) and the
published collection (normalized records with one :data:`BAND_STRUCT` column per band).

The first seventeen fields of :data:`BAND_STRUCT` are rasteret's schema contract, in its order and with its types: other
readers of that contract find what they expect. Ours follow, and the last of them tell which file the header is of.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

# --- record contract -------------------------------------------------------------------------------------------------

ID: Final = "id"
DATETIME: Final = "datetime"
START_DATETIME: Final = "start_datetime"
GEOMETRY: Final = "geometry"
BBOX: Final = "bbox"
ASSETS: Final = "assets"
PROJ_EPSG: Final = "proj:epsg"
CRS: Final = "crs"
YEAR: Final = "year"
MONTH: Final = "month"
DAY: Final = "day"
CLOUD_COVER: Final = "eo:cloud_cover"

#: STAC item fields beside the contract's; a record table with :data:`STAC_VERSION` is published as STAC-GeoParquet.
STAC_TYPE: Final = "type"
STAC_VERSION: Final = "stac_version"
STAC_EXTENSIONS: Final = "stac_extensions"
LINKS: Final = "links"
ITEM_COLLECTION: Final = "collection"
END_DATETIME: Final = "end_datetime"

HREF: Final = "href"
#: Which file an address means, as a hash (``storage/addresses/address.py``).
IDENTITY: Final = "identity"
IDENTITY_TYPE: Final = pa.binary(16)
BAND_INDEX: Final = "band_index"

REQUIRED_COLUMNS: Final = (ID, DATETIME, GEOMETRY, ASSETS)

TIMESTAMP: Final = pa.timestamp("us", tz="UTC")
#: The fields of a bbox, in this order.
BBOX_AXES: Final = ("xmin", "ymin", "xmax", "ymax")
BBOX_TYPE: Final = pa.struct([(axis, pa.float64()) for axis in BBOX_AXES])

#: The normalized columns whose type is fixed; ``assets`` is a struct whose fields the source decides.
RECORD_FIELDS: Final[dict[str, pa.DataType]] = {
    ID: pa.string(),
    DATETIME: TIMESTAMP,
    GEOMETRY: pa.binary(),
    BBOX: BBOX_TYPE,
    PROJ_EPSG: pa.int32(),
    CRS: pa.string(),
}

#: The hive keys of published datasets, in path order; a dataset has the first, two or all three, as ``partition_by``
#: says. Normalized records have them as their last columns; in published files they stand in the path alone.
PARTITION_SCHEMA: Final = pa.schema([(YEAR, pa.int32()), (MONTH, pa.int32()), (DAY, pa.int32())])

#: Why a row was not normalized, beside the row itself, in ``rejected_records``.
REJECT_REASON: Final = "reject_reason"
REJECT_CLASS: Final = "reject_class"

# --- band metadata ---------------------------------------------------------------------------------------------------

#: Raised whenever the parser would describe a file differently than before: stored headers of an older one are re-read.
PARSER_VERSION: Final = 5
#: Raised whenever the same raw rows would be normalized to other records.
RECORD_VERSION: Final = 2
#: Raised whenever the same records and headers would be published as other files.
PUBLISH_VERSION: Final = 2

#: The fields of a band, and of each of its overviews, that hold a value per tile.
TILE_TABLES: Final = ("tile_offsets", "tile_byte_counts")
OVERVIEWS: Final = "overviews"

#: A further page of a band's file, on the same outline, with tiles of its own: a smaller copy of its image, or a mask
#: that tells which pixels of the image or of a copy hold data.
OVERVIEW_STRUCT: Final = pa.struct(
    [
        ("image_width", pa.int32()),
        ("image_height", pa.int32()),
        ("tile_width", pa.int32()),
        ("tile_height", pa.int32()),
        *((name, pa.list_(pa.int64())) for name in TILE_TABLES),
        ("jpeg_tables", pa.string()),
        # Bits per sample of a mask, which is 0 in pixels without data; null for an image.
        ("mask_bits", pa.int32()),
        # Codec of a mask that has a codec of its own; null if codec and predictor are those of the image.
        ("compression", pa.int32()),
    ]
)

#: A header as the header store keeps it; size and validators of its file stand beside it (:data:`VALIDATOR_FIELDS`).
HEADER_STRUCT: Final = pa.struct(
    [
        ("image_width", pa.int32()),
        ("image_height", pa.int32()),
        ("tile_width", pa.int32()),
        ("tile_height", pa.int32()),
        ("dtype", pa.string()),
        ("transform", pa.list_(pa.float64())),
        ("predictor", pa.int32()),
        ("compression", pa.int32()),
        *((name, pa.list_(pa.int64())) for name in TILE_TABLES),
        ("pixel_scale", pa.list_(pa.float64())),
        ("tiepoint", pa.list_(pa.float64())),
        ("nodata", pa.float64()),
        ("samples_per_pixel", pa.int32()),
        ("planar_configuration", pa.int32()),
        ("photometric", pa.int32()),
        ("extra_samples", pa.list_(pa.int32())),
        # Fields of this package, by which a reader is right about a file whatever its record says.
        ("band_index", pa.int32()),
        ("epsg", pa.int32()),
        ("crs", pa.string()),
        ("nodata_text", pa.string()),
        ("jpeg_tables", pa.string()),  # base64: readers that go through JSON know no bytes inside a struct
        # A physical value is pixel * scale + offset; null where the file states none.
        ("scale", pa.float64()),
        ("offset", pa.float64()),
        # Images from the finest to the coarsest, and masks beside the image that they have the size of; null if none.
        (OVERVIEWS, pa.list_(OVERVIEW_STRUCT)),
    ]
)

#: What a file's host told of the file when its header was read (RFC 9110, 8.8 and 14.4): they tell whether the file is
#: still the one that the header describes. Texts are as the host wrote them, the length is in bytes.
VALIDATOR_FIELDS: Final = (
    pa.field("etag", pa.string()),
    pa.field("last_modified", pa.string()),
    pa.field("content_length", pa.int64()),
)

#: A ``{band}_metadata`` column of a published collection.
BAND_STRUCT: Final = pa.struct([*HEADER_STRUCT, *VALIDATOR_FIELDS])
CONTRACT_BAND_FIELDS: Final = tuple(field.name for field in BAND_STRUCT)[:17]

METADATA_SUFFIX: Final = "_metadata"

STATUS_OK: Final = "ok"
STATUS_FAILED: Final = "failed"
STATUS_UNSUPPORTED: Final = "unsupported"

#: Time until which later builds ask again for a file that does not exist; null for all other outcomes, and for missing
#: files that are not asked for again.
RETRY_UNTIL: Final = "retry_until"

#: The columns of a header row beside the header, its file and its sample.
OUTCOME_FIELDS: Final = (
    pa.field("status", pa.string()),
    pa.field("error_class", pa.string()),
    pa.field("error", pa.string()),
    pa.field("attempts", pa.int32()),
    pa.field("attempted_at", TIMESTAMP),
    pa.field(RETRY_UNTIL, TIMESTAMP),
    *VALIDATOR_FIELDS,
    pa.field("parser_version", pa.int32()),
)

#: Rows of the header store: one per file and sample, whatever record and band asked for it.
HEADER_SCHEMA: Final = pa.schema(
    [
        (IDENTITY, IDENTITY_TYPE),
        (HREF, pa.string()),
        (BAND_INDEX, pa.int32()),
        *OUTCOME_FIELDS,
        ("epsg", pa.int32()),
        ("header", HEADER_STRUCT),
    ]
)

HEADER_FILE: Final = "header_file"
HEADER_ROW: Final = "header_row"

#: The ledger: one row per record and band. The header stands in ``header_row`` of the header store's ``header_file``.
BAND_METADATA_SCHEMA: Final = pa.schema(
    [
        (ID, pa.string()),
        ("band", pa.string()),
        (HREF, pa.string()),
        (BAND_INDEX, pa.int32()),
        *OUTCOME_FIELDS,
        (HEADER_FILE, pa.string()),
        (HEADER_ROW, pa.int32()),
    ]
)


def band_column(band: str) -> str:
    """Return the name of the published column that holds the header of ``band``."""
    return band + METADATA_SUFFIX


def is_band_field(field: pa.Field) -> bool:
    """Return whether a column holds band metadata: named ``*_metadata`` and a struct with the contract's fields.

    A text column ``product_metadata`` of a user is not a band. Only the first ten fields are demanded, because older
    collections lack the later ones.
    """
    if not field.name.endswith(METADATA_SUFFIX) or not pa.types.is_struct(field.type):
        return False
    present = {child.name for child in field.type}
    return present.issuperset(CONTRACT_BAND_FIELDS[:10])


# --- partitions ------------------------------------------------------------------------------------------------------

#: The partition of records without a datetime; the published path uses hive's own name for a null key.
UNDATED: Final = "undated"
HIVE_NULL: Final = "__HIVE_DEFAULT_PARTITION__"

# --- stages ----------------------------------------------------------------------------------------------------------

RAW: Final = "raw_records"
NORMALIZED: Final = "normalized_records"
REJECTED: Final = "rejected_records"
BANDS: Final = "band_metadata"
#: Folder of the header store, beside those of the stages.
HEADERS: Final = "headers"
COLLECTION: Final = "collection"
#: Tables that can be opened, in the order in which data flows.
TABLES: Final = (RAW, NORMALIZED, REJECTED, BANDS, COLLECTION)
#: The stages in the order in which data flows.
STAGES: Final = (RAW, NORMALIZED, BANDS, COLLECTION)

#: Footer key of a stage file: the profile of the source under which its rows were made, and their version.
RECIPE_KEY: Final = b"rasteret_assets:recipe"

# --- footer keys -----------------------------------------------------------------------------------------------------

GEO_KEY: Final = b"geo"
NAME_KEY: Final = b"name"
DATA_SOURCE_KEY: Final = b"data_source"
DESCRIPTION_KEY: Final = b"description"
CREDENTIALS_KEY: Final = b"rasteret_assets:credentials"
DATE_RANGE_KEY: Final = b"date_range"
COLLECTION_VERSION_KEY: Final = b"rasteret_collection_version"
COLLECTION_VERSION: Final = b"1"
STAC_GEOPARQUET_KEY: Final = b"stac-geoparquet"
GEOPARQUET_VERSION: Final = "1.1.0"
#: The version that knows Parquet's own geometry type.
NATIVE_GEOPARQUET_VERSION: Final = "2.0.0"
#: The only version that the specification's JSON schema admits.
STAC_GEOPARQUET_VERSION: Final = "1.0.0"
