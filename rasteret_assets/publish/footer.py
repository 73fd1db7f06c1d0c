"""Make the footer of a published file, from facts that are gathered while its records are normalized.

The footer of the source is not copied: ``geo`` is made from the rows that are written, so that it is true of them. The
footer has no timestamps, so that equal rows give equal bytes. All facts are gathered before the first row is written,
because Arrow stores the metadata of the schema as it is then.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.columns.instants import utc_instants
from rasteret_assets.columns.types import is_text
from rasteret_assets.credentials import credentials_text
from rasteret_assets.geometry import wkb_types
from rasteret_assets.schema import (
    BBOX,
    BBOX_AXES,
    COLLECTION_VERSION,
    COLLECTION_VERSION_KEY,
    CREDENTIALS_KEY,
    DATA_SOURCE_KEY,
    DATETIME,
    DESCRIPTION_KEY,
    END_DATETIME,
    GEO_KEY,
    GEOMETRY,
    GEOPARQUET_VERSION,
    ITEM_COLLECTION,
    NAME_KEY,
    NATIVE_GEOPARQUET_VERSION,
    START_DATETIME,
)
from rasteret_assets.spec import CollectionSpec

#: Most STAC collections that the footer names; a file with items of more collections mirrors none, so none is named.
MOST_COLLECTIONS: Final = 100
#: Longitudes of a box around boxes of which one crosses the antimeridian.
_WHOLE_TURN: Final = (-180.0, 180.0)


@dataclass(kw_only=True)
class PublishedFacts:
    """Facts about all rows of a published file.

    Args:
        rows: number of rows.
        geometry_types: GeoParquet names of the types that occur.
        bbox: ``[xmin, ymin, xmax, ymax]`` of all footprints, over all longitudes where one crosses the antimeridian;
            None if no record has a footprint.
        start: earliest instant of any record (``datetime``, else ``start_datetime``); None if no record has a time.
        end: latest instant (``datetime``, else ``end_datetime``).
        collections: ids of the STAC collections that the records name.
    """

    rows: int = 0
    geometry_types: set[str] = field(default_factory=set)
    bbox: list[float] | None = None
    start: datetime | None = None
    end: datetime | None = None
    collections: set[str] = field(default_factory=set)

    def add(self, records: pa.Table, own_collection: str | None = None) -> None:
        """Add the facts of more rows.

        Args:
            records: normalized records.
            own_collection: id of the collection of STAC items that name none; None if records are not STAC items.
        """
        self.rows += records.num_rows
        self.geometry_types |= wkb_types(records[GEOMETRY].combine_chunks())
        self.bbox = united(self.bbox, _extent(records[BBOX].combine_chunks()))
        times = list(_times(records))
        starts = [found for found, _ in times if found is not None]
        ends = [found for _, found in times if found is not None]
        self.start = min([*starts, *([self.start] if self.start else [])], default=None)
        self.end = max([*ends, *([self.end] if self.end else [])], default=None)
        named = ITEM_COLLECTION in records.schema.names
        if named and is_text(records.schema.field(ITEM_COLLECTION).type):
            self.collections |= set(pc.unique(records[ITEM_COLLECTION]).drop_null().to_pylist())
        if own_collection is not None and records.num_rows and (not named or records[ITEM_COLLECTION].null_count):
            self.collections.add(own_collection)

    def to_json(self) -> dict[str, Any]:
        """Return a document for :meth:`from_json`."""
        return {
            "rows": self.rows, "geometry_types": sorted(self.geometry_types), "bbox": self.bbox,
            "start": self.start and self.start.isoformat(), "end": self.end and self.end.isoformat(),
            "collections": sorted(self.collections),
        }  # fmt: skip

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> PublishedFacts:
        """Return the facts that a document of :meth:`to_json` states."""
        times = {name: document[name] and datetime.fromisoformat(document[name]) for name in ("start", "end")}
        return cls(
            rows=document["rows"], geometry_types=set(document["geometry_types"]), bbox=document["bbox"],
            collections=set(document["collections"]), **times,
        )  # fmt: skip

    @property
    def interval(self) -> list[str | None]:
        """Return ``[start, end]`` as STAC writes them (RFC 3339, UTC)."""
        return [None if time is None else stac_time(time) for time in (self.start, self.end)]


def stac_time(time: datetime) -> str:
    """Return an instant in UTC as STAC writes it, with fractions of a second only if they are not 0."""
    return time.isoformat(timespec="microseconds" if time.microsecond else "seconds").replace("+00:00", "Z")


def united(one: list[float] | None, other: list[float] | None) -> list[float] | None:
    """Return the box around two boxes; either of them may be None."""
    if one is None or other is None:
        return other if one is None else one
    return [*(min(a, b) for a, b in zip(one[:2], other[:2], strict=True)),
            *(max(a, b) for a, b in zip(one[2:], other[2:], strict=True))]  # fmt: skip


def footer(facts: PublishedFacts, spec: CollectionSpec) -> dict[bytes, bytes]:
    """Return the footer metadata of a published file: the ``geo`` document and the keys of this package."""
    # Only if the spec has credentials, so that files of all other collections keep their bytes.
    signed = {} if spec.credentials is None else {CREDENTIALS_KEY: credentials_text(spec.credentials).encode()}
    return {
        GEO_KEY: json.dumps(_geo(facts, native=spec.geometry_encoding == "native"), sort_keys=True).encode(),
        NAME_KEY: spec.name.encode(),
        DATA_SOURCE_KEY: spec.data_source.encode(),
        DESCRIPTION_KEY: spec.description.encode(),
        COLLECTION_VERSION_KEY: COLLECTION_VERSION,
        **signed,
    }


def _geo(facts: PublishedFacts, *, native: bool) -> dict[str, Any]:
    """Return the ``geo`` document. It has no ``crs``, which means OGC:CRS84, the CRS of published footprints."""
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": sorted(facts.geometry_types),
        "covering": {"bbox": {axis: [BBOX, axis] for axis in BBOX_AXES}},
    }
    if facts.bbox is not None:
        column["bbox"] = facts.bbox
    version = NATIVE_GEOPARQUET_VERSION if native else GEOPARQUET_VERSION
    return {"version": version, "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}


def _extent(bbox: pa.StructArray) -> list[float] | None:
    valid = pc.drop_null(bbox)
    if not len(valid):
        return None
    xmin, ymin, xmax, ymax = (np.asarray(valid.field(position)) for position in range(4))
    west, east = _WHOLE_TURN if (xmin > xmax).any() else (float(xmin.min()), float(xmax.max()))
    return [west, float(ymin.min()), east, float(ymax.max())]


def _times(records: pa.Table) -> Iterator[tuple[datetime | None, datetime | None]]:
    """Yield earliest and latest instant of each column of times."""
    for name in (DATETIME, START_DATETIME, END_DATETIME):
        if name in records.schema.names and pa.types.is_timestamp(records.schema.field(name).type):
            yield tuple(pc.min_max(utc_instants(records[name])).as_py().values())
