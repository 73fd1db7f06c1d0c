"""Name the classes of failures, by which ledgers, messages and errors say in one word what went wrong.

One place holds for each class its name, whether later builds try again, and what a person can do about a failure.
``docs/troubleshooting.md`` lists them all. The names are stored in every ledger of headers, so a name never changes.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import Self


class Retry(Enum):
    """When a header that could not be read is asked for again, in words for people."""

    SAME_FETCH = "at once and by every build"
    EVERY_BUILD = "by every build"
    SOME_DAYS = "by every build for some days"
    SAME_RECORD = "whenever its partition is built"
    CHANGED_RECORD = "once its href changes, or by force"


class ErrorClass(StrEnum):
    """Name of a class of failures.

    Attributes:
        retry: when a header that failed so is asked for again; None for failures of which no ledger has rows.
        remedy: what a person can do about it.
    """

    retry: Retry | None
    remedy: str

    def __new__(cls, name: str, retry: Retry | None, remedy: str) -> Self:
        """Make a member whose value is ``name``, with the facts about the class."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.retry, member.remedy = retry, remedy
        return member

    @property
    def is_retried_by_every_build(self) -> bool:
        """Whether every later build asks for the header again, because the reason may have passed."""
        return self.retry in {Retry.SAME_FETCH, Retry.EVERY_BUILD}

    # Headers that are missing, or in another CRS than their record says: rows of a ledger.
    NOT_FOUND = (
        "not_found", Retry.SOME_DAYS,
        "the file is not there yet, is gone, or its address is wrong: correct or rewrite it (url_rewrite_patterns)",
    )  # fmt: skip
    FORBIDDEN = (
        "forbidden", Retry.EVERY_BUILD,
        "name credentials in the spec, give the backend some or fresh signed URLs, or declare requester_pays",
    )  # fmt: skip
    CREDENTIALS = (
        "credentials", Retry.EVERY_BUILD,
        "the error says why no credentials could be had: fix it, then build again",
    )  # fmt: skip
    THROTTLED = (
        "throttled", Retry.SAME_FETCH,
        "the host wants fewer requests: lower max_concurrent and build again",
    )  # fmt: skip
    TIMEOUT = (
        "timeout", Retry.SAME_FETCH,
        "the host is slow: build again, with a lower max_concurrent where it stays so",
    )  # fmt: skip
    UNAVAILABLE = (
        "unavailable", Retry.SAME_FETCH,
        "the host failed: see that it is up, then build again",
    )  # fmt: skip
    UNREACHABLE = (
        "unreachable", Retry.SAME_FETCH,
        "no connection to the host: check its name, the network and the proxy, then build again",
    )  # fmt: skip
    BACKEND_FAILED = (
        "backend_failed", Retry.SAME_FETCH,
        "the backend you gave raised an exception: the error names it; fix the backend and build again",
    )  # fmt: skip
    TRUNCATED = (
        "truncated", Retry.SAME_FETCH,
        "the connection broke or the file changed meanwhile: build again; check the file's upload if it stays",
    )  # fmt: skip
    BAD_ANSWER = (
        "bad_answer", Retry.EVERY_BUILD,
        "the server breaks the rules of HTTP: look at the address with curl -v, then build again",
    )  # fmt: skip
    WRONG_RANGE = (
        "wrong_range", Retry.EVERY_BUILD,
        "the host, or a proxy before it, sends other bytes than asked for: fix it, then build again",
    )  # fmt: skip
    READ_FAILED = (
        "read_failed", Retry.EVERY_BUILD,
        "the bytes could not be read: the error says why; build again once that is fixed",
    )  # fmt: skip
    FORKED = (
        "forked", Retry.CHANGED_RECORD,
        "object stores cannot be read in a fork of a process that has read some: start processes by 'spawn'",
    )  # fmt: skip
    REPLACED = (
        "replaced", Retry.CHANGED_RECORD,
        "the file was replaced since it was indexed: build again with --revalidate",
    )  # fmt: skip
    LINK_LOCAL_REFUSED = (
        "link_local_refused", Retry.SAME_RECORD,
        "if the table may name services of its own network, write link_local: allow in its spec",
    )  # fmt: skip
    LOCAL_FILE_REFUSED = (
        "local_file_refused", Retry.SAME_RECORD,
        "if the table may name files of this machine, write local_files: allow in its spec",
    )  # fmt: skip
    NO_HREF = (
        "no_href", Retry.SAME_RECORD,
        "the record names the asset but no address: fill in its href, or leave out the band with band_codes",
    )  # fmt: skip
    INVALID_BAND_INDEX = (
        "invalid_band_index", Retry.SAME_RECORD,
        "write band_index as a whole number, 0 for the first band of the file",
    )  # fmt: skip
    CRS_CONFLICT = (
        "crs_conflict", Retry.SAME_RECORD,
        "the header is used, in the file's own CRS: correct proj:epsg or proj:code in the record table",
    )  # fmt: skip
    NOT_TIFF = (
        "not_tiff", Retry.CHANGED_RECORD,
        "something else answers at this address, such as a login page: check the href, or leave out the asset",
    )  # fmt: skip
    NOT_TILED = (
        "not_tiled", Retry.CHANGED_RECORD,
        "the file is stored in strips: rewrite it as a COG (gdal_translate -of COG)",
    )  # fmt: skip
    NOT_GEOREFERENCED = (
        "not_georeferenced", Retry.CHANGED_RECORD,
        "the file has no usable geotransform: georeference it (gdalwarp, or gdal_translate -a_ullr)",
    )  # fmt: skip
    UNSUPPORTED = (
        "unsupported", Retry.CHANGED_RECORD,
        "a tile index cannot describe this file: rewrite it as a COG, or check the band index asked for",
    )  # fmt: skip
    CORRUPT = (
        "corrupt", Retry.CHANGED_RECORD,
        "the header contradicts the file: upload it again, or ask its provider",
    )  # fmt: skip

    # Failures of a whole command, build, read or query: attributes of exceptions, in no ledger.
    ERROR = "error", None, "the message says what is wrong"
    SPEC = "spec", None, "correct the argument or the line of the declaration that the message names"
    SOURCE = "source", None, "check the path, filesystem and credentials of the record table"
    SOURCE_CHANGED = "source_changed", None, "build again once the record table is written completely"
    NOT_HARVESTED = "not_harvested", None, "harvest the STAC items first, or build without --no-harvest"
    HARVEST = "harvest", None, "harvest again; only windows that failed or can have changed are asked for"
    BAD_PAGE = "bad_page", None, "look at the address that the message names, and tell the provider of the catalog"
    RECORD = "record", None, "correct the column of the record table that the message names"
    MISSING_COLUMN = "missing_column", None, "name the column of the table that holds it with column_map"
    INVALID_RECORD = "invalid_record", None, "correct the records that are named, or tolerate some with max_rejected"
    ENRICHMENT = "enrichment", None, "fix what the message names as the commonest failure, then build again"
    CHECK = "check", None, "fix what the check found, then build again; what was published before stays"
    LOCK_LOST = "lock_lost", None, "build again: another build took the partition over and publishes it"
    WORKSPACE = "workspace", None, "give the workspace a folder that exists, with permission to write and room"
    COLLECTION = "collection", None, "name the folder a collection is published in (..._records), and build it first"
    DAMAGED = "damaged", None, "delete the file that is named, or build its partition by force"
    STALE_ROWS = "stale_rows", None, "select the records again, from a collection loaded anew"
    BAND_NOT_FOUND = "band_not_found", None, "ask for bands that the message lists"
    WINDOW = "window", None, "ask for an area that meets the rasters, and for a grid that they can be read on"
    TILE = "tile", None, "leave the tile out with on_error='mask', and ask the file's provider to replace it"
    PIXELS = "pixels", None, "fix what the failures name, or leave their pixels out with on_error='mask'"
    MISSING_EXTRA = "missing_extra", None, "install the extra that the message names"
    LOOP_THREAD = "loop_thread", None, "await the asynchronous method, or call from another thread"


class RejectClass(StrEnum):
    """Name of the reason for which a record breaks the record contract and is set aside.

    Attributes:
        remedy: what a person can do about it.
    """

    remedy: str

    def __new__(cls, name: str, remedy: str) -> Self:
        """Make a member whose value is ``name``, with what helps."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.remedy = remedy
        return member

    MISSING_ID = "missing_id", "give every record an id, or name the column that holds it with column_map"
    DUPLICATE_ID = (
        "duplicate_id",
        "give records of different content different ids, or write overlap: newest by COLUMN in the spec",
    )
    INVALID_DATETIME = "invalid_datetime", "write datetime as a timestamp or ISO 8601 text, in the years 1 to 9999"
    INVALID_GEOMETRY = "invalid_geometry", "write footprints as WKB in degrees, or state their CRS in the table"
