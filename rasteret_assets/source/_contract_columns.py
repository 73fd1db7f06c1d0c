"""Check the columns of a record table before a row is read: their names, and types that Parquet can hold."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from rasteret_assets.errors import MissingColumnError, SourceError
from rasteret_assets.geometry import primary_geometry
from rasteret_assets.message_lists import some
from rasteret_assets.schema import ASSETS, GEOMETRY, REQUIRED_COLUMNS
from rasteret_assets.spec import CollectionSpec

#: Names of columns that Arrow's scanner adds to every table.
OF_THE_SCANNER: Final = frozenset({"__fragment_index", "__batch_index", "__last_in_fragment", "__filename"})
_MOST_LISTED: Final = 20


_PANDAS_INDEX: Final = re.compile(r"__index_level_\d+__")


def projection(label: str, names: Iterable[str], spec: CollectionSpec) -> list[str]:
    """Return the columns to scan, in their order.

    Raises:
        MissingColumnError: if ``columns`` names a column that is not there.
        SourceError: if a column is there twice, or has a name that no scan can give.
    """
    there = list(names)
    if spec.columns is None:
        # Without the row number that pandas writes beside the columns of a filtered DataFrame, because the number says
        # nothing of a record.
        chosen = [name for name in there if not _PANDAS_INDEX.fullmatch(name)]
    else:
        if missing := [name for name in spec.columns if name not in there]:
            raise MissingColumnError(f"{label}: columns= names {missing}, {_nearest(missing, there)}")
        chosen = list(dict.fromkeys(spec.columns))
    times = Counter(there)
    if double := sorted({name for name in chosen if times[name] > 1}):
        raise SourceError(f"{label}: has several columns named {double}; rename all but one")
    if taken := sorted(OF_THE_SCANNER.intersection(chosen)):
        raise SourceError(
            f"{label}: has a column named {', '.join(taken)}, which is a name that Arrow uses itself while it reads: "
            "rename the column, or leave it out with columns="
        )
    return chosen


def check_contract(label: str, schema: pa.Schema, footers: Iterable[pa.Schema], spec: CollectionSpec) -> None:
    """Refuse a table whose columns no row could satisfy, before a row is read.

    Args:
        label: of the source, for messages.
        schema: columns that are scanned.
        footers: schemas of its files, each once, with the GeoParquet footers.
        spec: names and maps columns.

    Raises:
        MissingColumnError: naming the columns, and what to write.
    """
    names, footers = list(schema.names), list(footers)
    if missing := [name for name in spec.column_map if name not in names]:
        raise MissingColumnError(f"{label}: column_map names {missing}, {_nearest(missing, names)}")
    taken = [f"{a} -> {b}" for a, b in spec.column_map.items() if a != b and b in names]
    if taken:
        raise MissingColumnError(
            f"{label}: column_map would hide existing columns ({', '.join(taken)}); "
            "leave them out of columns=, or do not map onto them"
        )
    for footer in footers:
        _check_primary(label, footer, spec, names)
    available = {*names, *spec.column_map.values()}
    if spec.href_column and ASSETS not in available:
        if spec.href_column not in available:
            raise MissingColumnError(
                f"{label}: href_column={spec.href_column!r} is not there, {_nearest([spec.href_column], names)}"
            )
        available.add(ASSETS)
    if spec.newest_by is not None and spec.newest_by not in available:
        raise MissingColumnError(
            f"{label}: overlap is by {spec.newest_by!r}, which is not there, {_nearest([spec.newest_by], names)}"
        )
    if missing := [name for name in REQUIRED_COLUMNS if name not in available]:
        projected = " columns= leaves out part of the table;" if spec.columns is not None else ""
        href = ", or the column of addresses with href_column= and band_index_map=" if ASSETS in missing else ""
        theirs = primary_geometry(footers[0].metadata) if missing == [GEOMETRY] else None
        raise MissingColumnError(
            f"{label}: is not a record table: it has no {', '.join(missing)}.{projected} Name the columns that hold "
            f"them with column_map={{{theirs or 'their name'!r}: {missing[0]!r}}}{href}. It has {listed(names)}"
            f"{_nested(schema)}"
        )


def _nested(table: pa.Schema) -> str:
    """Return a hint for a table whose rows are STAC items as in JSON; an empty text for other tables."""
    if "properties" not in table.names or not pa.types.is_struct(table.field("properties").type):
        return ""
    return (
        ". These look like STAC items with their properties in a struct: make each a column (as stac-geoparquet does)"
    )


def check_storable(label: str, schema: pa.Schema) -> None:
    """Refuse columns of an Arrow object that Parquet cannot hold, because stages are stored as Parquet.

    Raises:
        SourceError: naming the first such column.
    """
    for field_ in schema:
        try:
            pq.write_table(pa.schema([field_]).empty_table(), pa.BufferOutputStream())
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            raise SourceError(
                f"{label}: column {field_.name!r} is {field_.type}, which Parquet cannot hold ({error}): leave "
                "it out with columns=, or cast it"
            ) from error


def _check_primary(label: str, footer: pa.Schema, spec: CollectionSpec, names: list[str]) -> None:
    """Refuse a file in which the spec and the GeoParquet footer name different columns of footprints."""
    wanted = spec.source_column(GEOMETRY)
    primary = primary_geometry(footer.metadata)
    own = {*names}.intersection(footer.names)
    if primary in own and primary != GEOMETRY and GEOMETRY in own and GEOMETRY not in spec.column_map.values():
        raise MissingColumnError(
            f"{label}: its GeoParquet footer names {primary!r} as the primary geometry, but there is a column "
            "'geometry' too: leave that one out with columns=, and map the footprint with "
            f"column_map={{{primary!r}: 'geometry'}}"
        )
    if primary in own and wanted in names and wanted not in own:
        raise MissingColumnError(
            f"{label}: some of its files have their footprints in {wanted!r}, others in {primary!r}, which their "
            "GeoParquet footers name: rename the column in these"
        )


def _nearest(missing: list[str], names: list[str]) -> str:
    near = [match for name in missing for match in difflib.get_close_matches(name, names, n=1)]
    return f"did you mean {near}?" if near else f"the table has {listed(names)}"


def listed(names: list[str]) -> str:
    """Return the first names, as a message lists them."""
    return some(names, _MOST_LISTED)
