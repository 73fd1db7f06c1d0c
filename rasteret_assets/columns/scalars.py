"""Normalize the scalar columns of the record contract: ids, times and CRSs of rasters, a column at a time."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.columns.instants import utc_instants
from rasteret_assets.columns.types import is_list, plain_text
from rasteret_assets.errors import RecordError
from rasteret_assets.schema import CRS, PROJ_EPSG, TIMESTAMP
from rasteret_assets.storage.addresses.address import may_be_signed, unsigned_hrefs

# ISO 8601 as STAC writes it (RFC 3339) and its common relaxations: a space for the T, no seconds, a bare date, no zone.
_ISO_TIME = r"^\d{4}-\d{2}-\d{2}([Tt ]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?)?\s*([Zz]|[+-]\d{2}(:?\d{2})?)?$"
#: Further spellings of ISO 8601 (5.2, 5.3), as the one above: a year, a month, the basic format with or without a time.
_FURTHER_TIMES = (
    (r"^(\d{4})$", r"\1-01-01"),
    (r"^(\d{4}-\d{2})$", r"\1-01"),
    (r"^(\d{4})(\d{2})(\d{2})$", r"\1-\2-\3"),
    (r"^(\d{4})(\d{2})(\d{2})T(\d{2})(\d{2})(\d{2}([.,]\d+)?)([Zz]|[+-]\d{2}(:?\d{2})?)?$", r"\1-\2-\3T\4:\5:\6\8"),
    # Not ISO 8601, but in its order, so that no other day can be meant: 2019/01/26 or 2019/1/6, perhaps with a time.
    (r"^(\d{4}/)(\d/.*)$", r"\10\2"),
    (r"^(\d{4}/\d{2}/)(\d([Tt ].*)?)$", r"\10\2"),
    (r"^(\d{4})/(\d{2})/(\d{2}([Tt ].*)?)$", r"\1-\2-\3"),
    # Not ISO 8601, but how pandas, Arrow and databases write an instant in UTC.
    (r"^(\d{4}-.*:.*\d)\s*UTC$", r"\1Z"),
)
_ZONED = r"[:\d]\s*([Zz]|[+-]\d{2}(:?\d{2})?)$"
_MICROSECONDS = r"([.,]\d{6})\d+"
_EARLIEST_YEAR, _LATEST_YEAR = 1000, 9999
_USER_DEFINED = 32767

#: Columns that may state a raster's CRS, first to last: the column of the published table, then other spellings.
CRS_SOURCES = (PROJ_EPSG, "proj:code", CRS, "proj:wkt2", "proj:projjson")


_ADDRESS: Final = r"(?i)^\s*(//|/vsi|[a-z][a-z0-9+.-]*:/)"


def normalize_ids(column: pa.Array) -> pa.Array:
    """Return record ids as text, UUIDs in their usual form (RFC 9562, 4); blank ids become null.

    Secrets are removed from an id that is an address, because ids are written to ledgers, messages and states, and
    because a renewed signature must not make another record.

    Raises:
        RecordError: if the column's type cannot be an identifier (floats: 1.0 and 1 would not meet again).
    """
    column = plain_text(column)
    kind = column.type
    if pa.types.is_null(kind):
        return pa.nulls(len(column), pa.string())
    if kind == pa.uuid():
        return _uuid_texts(column.storage)
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise RecordError(f"column 'id' is {kind}: identifiers are text or integers; cast it before the build")
    ids = column.cast(pa.string())
    if may_be_signed(ids):
        is_address = pc.match_substring_regex(ids, _ADDRESS)
        ids = pc.if_else(is_address, unsigned_hrefs(ids), ids)
    return pc.if_else(pc.equal(ids, ""), pa.scalar(None, pa.string()), ids)


def _uuid_texts(column: pa.FixedSizeBinaryArray) -> pa.Array:
    """Return UUIDs of 16 bytes as texts ``8-4-4-4-12``."""
    rows = len(column)
    if not rows:
        return pa.array([], pa.string())
    content = np.frombuffer(column.buffers()[1], np.uint8)[16 * column.offset :][: 16 * rows]
    digits = np.array([f"{byte:02x}" for byte in range(256)], "S2")[content].view("S1").reshape(rows, 32)
    texts = np.full((rows, 36), b"-", "S1")
    texts[:, np.delete(np.arange(36), [8, 13, 18, 23])] = digits
    return pa.array(texts.view("S36").ravel(), pa.binary(), mask=np.asarray(column.is_null())).cast(pa.string())


def normalize_times(column: pa.Array, name: str) -> tuple[pa.Array, pa.Array]:
    """Return the instants of a column as UTC microseconds, and a mask of the values that do not parse.

    Timestamps and dates of any unit and zone are converted (UTC if they have no zone; finer fractions are cut);
    integers and whole floats are years; text is ISO 8601 (a year or a month means its first instant). Blank text is
    null; instants outside of the years 1 to 9999 do not parse.

    Raises:
        RecordError: for numbers that are not years, or a type that holds no time.
    """
    column = plain_text(column)
    kind = column.type
    good = pa.array(np.zeros(len(column), bool))
    if pa.types.is_null(kind):
        return pa.nulls(len(column), TIMESTAMP), good
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        if pa.types.is_date(kind):
            column = column.cast(pa.timestamp("ms" if pa.types.is_date64(kind) else "s"))
        instants = utc_instants(column)
        return instants, pc.and_(pc.is_valid(column), pc.is_null(instants))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _from_years(column, name), good
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _from_text(column.cast(pa.string()))
    raise RecordError(f"column {name!r} is {kind}: write timestamps, dates, ISO 8601 text or integer years")


def _from_years(column: pa.Array, name: str) -> pa.Array:
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))
    years = pc.drop_null(column)
    if len(years):
        low, high = (value.as_py() for value in pc.min_max(years).values())
        whole = pa.types.is_integer(years.type) or pc.all(pc.equal(years, pc.floor(years.cast(pa.float64())))).as_py()
        if not whole or low < _EARLIEST_YEAR or high > _LATEST_YEAR:
            odd = low if low < _EARLIEST_YEAR else high
            raise RecordError(
                f"column {name!r} holds numbers such as {odd}, which are not years: the unit of other numbers is "
                "ambiguous, so convert them to timestamps first"
            )
    text = column.cast(pa.int64()).cast(pa.string())
    dates = pc.binary_join_element_wise(text, pa.scalar("-01-01T00:00:00Z"), "")
    return dates.cast(TIMESTAMP)


def _from_text(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    text = pc.utf8_trim_whitespace(column)
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    is_iso = pc.fill_null(pc.match_substring_regex(text, _ISO_TIME), fill_value=False)
    if not pc.all(pc.or_(is_iso, pc.is_null(text))).as_py():
        for spelling, usual in _FURTHER_TIMES:
            text = pc.replace_substring_regex(text, spelling, usual)
        is_iso = pc.fill_null(pc.match_substring_regex(text, _ISO_TIME), fill_value=False)
    candidates = pc.if_else(is_iso, text, pa.scalar(None, pa.string()))
    candidates = pc.replace_substring_regex(candidates, _MICROSECONDS, r"\1")
    zoned = pc.fill_null(pc.match_substring_regex(candidates, _ZONED), fill_value=False)
    # Only texts longer than a date, because the "-dd" at the end of a date looks like an offset.
    zoned = pc.and_(zoned, pc.fill_null(pc.greater(pc.utf8_length(candidates), 10), fill_value=False))
    missing = pa.scalar(None, pa.string())
    try:
        aware = pc.if_else(zoned, candidates, missing).cast(TIMESTAMP)
        naive = pc.assume_timezone(pc.if_else(zoned, missing, candidates).cast(pa.timestamp("us")), "UTC")
        times = pc.coalesce(aware, naive)
    except pa.ArrowInvalid:
        # Row by row, because one impossible date (a 13th month) or a spelling that Arrow does not take fails the cast
        # of the whole column.
        times = pa.array([_parse_time(value) for value in candidates.to_pylist()], TIMESTAMP)
    times = utc_instants(times)
    bad = pc.and_(pc.is_valid(text), pc.is_null(times))
    return times, bad


def _parse_time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text.replace(",", ".").upper())
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):  # no such day, or beyond the last one in UTC
        return None


def normalize_crs(batch: pa.RecordBatch | pa.Table) -> tuple[pa.Array, pa.Array, int]:
    """Return the EPSG code and the CRS text of every row, from the columns that state one.

    The first of :data:`CRS_SOURCES` that names an EPSG code wins, row by row; a CRS without a code keeps its text. A
    code that the EPSG registry does not know is kept as text only.

    Returns:
        int32 codes ``[N]``, texts ``[N]`` (``EPSG:n`` where there is a code), and how many rows state CRSs that
        disagree.
    """
    rows = batch.num_rows
    codes, texts = pa.nulls(rows, pa.int32()), pa.nulls(rows, pa.string())
    conflicts = np.zeros(rows, bool)
    for name in CRS_SOURCES:
        if name not in batch.schema.names:
            continue
        column_codes, column_texts = _parse_crs_column(_one_array(batch.column(name)))
        differs = pc.fill_null(pc.not_equal(codes, column_codes), fill_value=False)
        conflicts |= np.asarray(differs)
        codes = pc.coalesce(codes, column_codes)
        texts = pc.coalesce(texts, column_texts)
    by_code = pc.binary_join_element_wise(pa.scalar("EPSG"), codes.cast(pa.string()), ":")
    return codes, pc.coalesce(by_code, texts), int(conflicts.sum())


def _parse_crs_column(column: pa.Array) -> tuple[pa.Array, pa.Array]:
    column = plain_text(column)
    if is_list(column.type):
        # A list of one code is that code. With several codes nobody says which is the raster's.
        column = pa.array([values[0] if values and len(values) == 1 else None for values in column.to_pylist()])
    if pa.types.is_nested(column.type):
        # A struct is PROJJSON. Row by row as text, because a table holds few distinct ones.
        column = pa.array(
            [None if v is None else json.dumps(_drop_nulls(v), sort_keys=True) for v in column.to_pylist()]
        )
    encoded = column.dictionary_encode()
    parsed = [parse_crs(value) for value in encoded.dictionary.to_pylist()]
    codes = pa.array([code for code, _ in parsed], pa.int32())
    texts = pa.array([text for _, text in parsed], pa.string())
    return codes.take(encoded.indices), texts.take(encoded.indices)


def parse_crs(value: Any) -> tuple[int | None, str | None]:
    """Return EPSG code and text of a CRS: a number, ``EPSG:32632``, another authority's code, WKT or PROJJSON text."""
    if isinstance(value, float):
        value = int(value) if value.is_integer() else None
    if value is None or isinstance(value, bool):
        return None, None
    if isinstance(value, int):
        return _of_number(value)
    text = str(value).strip()
    if code := re.fullmatch(r"(?:EPSG:+)?(\d{4,6})(?:\.0)?", text, re.IGNORECASE):
        return _of_number(int(code.group(1)))
    return _parse_crs_text(text) if text else (None, None)


def _of_number(number: int) -> tuple[int | None, str | None]:
    if number <= 0 or number == _USER_DEFINED:
        return None, None
    return number if _is_registered(number) else None, f"EPSG:{number}"


@lru_cache(maxsize=1024)
def _is_registered(code: int) -> bool:
    # Imported here, because pyproj takes 0.15 s to import and tables that state no CRS do not need it.
    from pyproj import CRS as ProjCRS  # noqa: N811, PLC0415
    from pyproj.exceptions import CRSError  # noqa: PLC0415

    try:
        ProjCRS.from_epsg(code)
    except CRSError:
        return False
    return True


@lru_cache(maxsize=1024)
def _parse_crs_text(text: str) -> tuple[int | None, str]:
    from pyproj import CRS as ProjCRS  # noqa: N811, PLC0415
    from pyproj.exceptions import CRSError  # noqa: PLC0415

    try:
        crs = ProjCRS.from_user_input(text)
    except CRSError:
        identifier = _projjson_id(text)
        return (identifier, f"EPSG:{identifier}") if identifier else (None, text)
    code = crs.to_epsg()
    return (code, f"EPSG:{code}") if code else (None, text)


def _projjson_id(text: str) -> int | None:
    """Return the EPSG code in the ``id`` of an incomplete PROJJSON; None without one."""
    try:
        identity = json.loads(text).get("id") or {}
        code = int(identity["code"]) if identity.get("authority") == "EPSG" else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return code if code is not None and _is_registered(code) else None


def _drop_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _drop_nulls(item) for key, item in value.items() if item is not None}
    return [_drop_nulls(item) for item in value] if isinstance(value, list) else value


def _one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
