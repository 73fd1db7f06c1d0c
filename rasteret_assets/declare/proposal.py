"""Propose a declaration for a record table, by its schema and first rows.

Columns are recognised by names that STAC and similar formats use, and by their content: a text column of addresses
that end like GeoTIFFs. Notes tell every guess, so that a person can correct it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import yaml

from rasteret_assets.columns.scalars import normalize_times
from rasteret_assets.errors import RasteretAssetsError
from rasteret_assets.geometry import primary_geometry
from rasteret_assets.partitions import PartitionBy, rows_by_partition
from rasteret_assets.records.normalize import normalize_records
from rasteret_assets.schema import (
    ASSETS,
    CRS,
    DATETIME,
    GEOMETRY,
    ID,
    PROJ_EPSG,
    REJECT_CLASS,
    REQUIRED_COLUMNS,
    START_DATETIME,
    UNDATED,
)
from rasteret_assets.secrets import redact
from rasteret_assets.source.open import Source, open_source, open_table
from rasteret_assets.source.profiling import profile_source
from rasteret_assets.spec import CollectionSpec

#: Rows that are read to propose columns and bands.
SAMPLE_ROWS: Final = 1000

_COLUMN_NAMES: Final[dict[str, tuple[str, ...]]] = {
    ID: ("id", "item_id", "scene_id", "product_id", "granule_id", "record_id", "tile_id", "identifier", "name"),
    DATETIME: (
        "datetime", "acquired", "acquisition_date", "acquired_at", "sensing_time", "timestamp", "time", "date",
        START_DATETIME, "year",
    ),
    GEOMETRY: ("geometry", "geom", "wkb_geometry", "footprint", "wkt", "geometry_wkt", "shape"),
    ASSETS: ("assets",),
}  # fmt: skip
_HREF_NAMES: Final = ("href", "url", "uri", "path", "location", "file", "filename", "cog", "cog_url", "image", "source")
#: Records of a table below which its dates do not decide the size of partitions.
_FEWEST_RECORDS: Final = 1000
#: Days of a partition of each size.
_DAYS: Final[dict[PartitionBy, float]] = {"day": 1, "month": 30.4, "year": 365.2}
#: Share of the earliest, and of the latest records, that does not count, because a few dates may be wrong.
_TAIL: Final = 0.05
#: Geometric mean of the 1,000 to 100,000 records that suit a partition.
_PARTITION_RECORDS: Final = 10_000
_RASTER: Final = re.compile(r"\.(tiff?|cog|gtiff)(\?.*)?$", re.IGNORECASE)
_CRS_COLUMNS: Final = ("proj:code", PROJ_EPSG, CRS, "proj:wkt2", "proj:projjson")


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A declaration, and the observations that led to it.

    Args:
        values: fields of a ``CollectionSpec``, as YAML has them.
        notes: findings and guesses, a sentence each.
        warnings: missing columns and rows that a build would reject, a sentence each.
        columns: name and type of every column of the table.
        partitions: rows per partition of the sample.
    """

    values: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    partitions: dict[str, int] = field(default_factory=dict)

    def to_yaml(self) -> str:
        """Return the declaration as YAML, with notes and warnings as comments at its top."""
        comments = [*self.notes, *(f"! {warning}" for warning in self.warnings)]
        head = "".join(f"# {line}\n" for comment in comments for line in comment.splitlines())
        return head + str(yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True, width=100))


def propose(path: str | Path, *, name: str = "", workspace_dir: str | None = None, filesystem: Any = None) -> Proposal:
    """Propose a declaration for the record table at ``path``.

    Args:
        path: path or URI of a Parquet or GeoParquet file or dataset directory.
        name: of the collection; the name of the file or folder when omitted.
        workspace_dir: folder or URI to publish the collection in.
        filesystem: pyarrow or fsspec filesystem of ``path``.

    Raises:
        SourceError: if the table does not exist, or cannot be read.
    """
    table = open_table(path, filesystem)
    sample = table.head(SAMPLE_ROWS)
    values: dict[str, Any] = {"name": name or _name_of(str(path)), "path": str(path)}
    if workspace_dir is not None:
        values["workspace_dir"] = workspace_dir
    notes, warnings = [f"{redact(str(path))}: {sample.num_columns} columns"], list[str]()
    _propose_columns(sample, table.schema, values, notes, warnings)
    _propose_crs(sample, notes)
    values["enrich_cog"] = True
    if not warnings:
        _propose_size(table, values, notes)
    partitions = _try(values, sample, notes, warnings) if not warnings else {}
    columns = {column.name: str(column.type) for column in table.schema}
    return Proposal(values=values, notes=notes, warnings=warnings, columns=columns, partitions=partitions)


def _propose_columns(
    sample: pa.Table, schema: pa.Schema, values: dict[str, Any], notes: list[str], warnings: list[str]
) -> None:
    """Propose columns for the names of the record contract."""
    names, column_map = sample.schema.names, dict[str, str]()
    for contract in REQUIRED_COLUMNS:
        if contract in names:
            continue
        if contract == ASSETS:
            _propose_href(sample, values, notes, warnings)
            continue
        primary = primary_geometry(schema.metadata) if contract == GEOMETRY else None
        lowered = {name.lower(): name for name in reversed(names)}
        candidates = [primary] if primary in names else [lowered[n] for n in _COLUMN_NAMES[contract] if n in lowered]
        if not candidates:
            warnings.append(f"no column looks like {contract}: name one under column_map, as <column>: {contract}")
            continue
        column_map[str(candidates[0])] = contract
        notes.append(f"{candidates[0]} is taken for {contract}")
    if column_map:
        values["column_map"] = column_map


def _propose_href(sample: pa.Table, values: dict[str, Any], notes: list[str], warnings: list[str]) -> None:
    """Propose the column of file addresses of a table that has no assets."""
    shares = {name: _raster_share(sample[name]) for name in sample.schema.names}
    found = sorted(
        (name for name, share in shares.items() if share > 0.5),
        key=lambda name: (name.lower() not in _HREF_NAMES, -shares[name], name),
    )
    if not found:
        warnings.append("no column holds assets or addresses of GeoTIFFs: name one with href_column and band_index_map")
        return
    values["href_column"], values["band_index_map"] = found[0], {"B1": 0}
    notes.append(
        f"{found[0]} holds addresses of GeoTIFFs; its first sample is called B1: name the samples of the files in "
        "band_index_map, counting from 0"
    )
    if others := found[1:]:
        notes.append(f"addresses are in {', '.join(others)} too, which are left as they are")


def _raster_share(column: pa.ChunkedArray) -> float:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return 0.0
    texts = column.drop_null().to_pylist()[:100]  # 100 texts, because they are enough to recognise a column
    return sum(1 for text in texts if _RASTER.search(text)) / max(len(texts), 1)


def _propose_crs(sample: pa.Table, notes: list[str]) -> None:
    """Note where the CRS comes from, which needs no warning, because headers have it too."""
    stated = [name for name in _CRS_COLUMNS if name in sample.schema.names]
    if stated:
        notes.append(
            f"the CRS of the rasters is read from {', '.join(stated)}, and from the headers, which count if both differ"
        )
    else:
        notes.append("no column states the CRS of the rasters: it comes from the headers")


def _propose_size(table: Source, values: dict[str, Any], notes: list[str]) -> None:
    """Propose the size of partitions whose number of records is, as a ratio, nearest to :data:`_PARTITION_RECORDS`.

    A partition is one file, which is built, checked and replaced as a whole. Above 100,000 records an append rewrites
    too much; below 1,000 records readers take longer to open a file than to read it. A table of fewer than 1,000
    records is partitioned by month, because it may be the beginning of a larger table.
    """
    days = _records_by_day(table, CollectionSpec.of(**values))
    if days.total() < _FEWEST_RECORDS:
        values["partition_by"] = "month"
        notes.append(
            f"partitioned by month: {days.total()} records are too few to choose a size by; day and year do as well"
        )
        return
    a_day = _records_a_day(days)
    expected = {by: a_day * days_of for by, days_of in _DAYS.items()}
    chosen = min(expected, key=lambda by: abs(math.log(expected[by] / _PARTITION_RECORDS)))
    values["partition_by"] = chosen
    counts = ", ".join(f"{records:,.{0 if records > 10 else 1}f} a {by}" for by, records in expected.items())
    counts = counts.replace(" a day", " records a day", 1)
    notes.append(
        f"partitioned by {chosen}: about {counts}; 1,000 to 100,000 suit a partition, which is one file and is rebuilt "
        "as a whole"
    )


def _records_a_day(days: Mapping[str, int]) -> float:
    """Return the number of records a day, of the middle 90 % by date, so that a few wrong dates do not count."""
    keys = sorted(days)
    shares = np.cumsum([days[key] for key in keys]) / sum(days.values())
    inner = np.flatnonzero((shares >= _TAIL) & (shares <= 1 - _TAIL))
    first, last = (int(inner[0]), int(inner[-1])) if len(inner) else (0, len(keys) - 1)
    span = date.fromisoformat(keys[last]) - date.fromisoformat(keys[first])
    return sum(days[key] for key in keys[first : last + 1]) / (span.days + 1)


def _records_by_day(table: Source, spec: CollectionSpec) -> Counter[str]:
    """Count the records of every day over the whole table, because its first rows may all be of one day."""
    column = spec.source_column(DATETIME)
    found: Counter[str] = Counter()
    try:
        narrow = replace(table, schema=pa.schema([table.schema.field(column)]))
        for batch in narrow.batches():
            times, _ = normalize_times(batch.column(column), column)
            found.update({key: len(rows) for key, rows in rows_by_partition(times, "day") if key != UNDATED})
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, RasteretAssetsError):
        return Counter()  # because _try then warns of the fault of the rows
    return found


def _try(values: dict[str, Any], sample: pa.Table, notes: list[str], warnings: list[str]) -> dict[str, int]:
    """Normalize the sample as a build would, and add notes and warnings about the result."""
    spec = CollectionSpec.of(**values)
    try:
        source = open_source(sample, spec)
        profile = profile_source(source, spec)
        result = normalize_records(source.table(), spec, profile)
    except RasteretAssetsError as error:
        warnings.append(str(error))
        return {}
    rows = {key: part.rows for key, part in profile.partitions.items()}
    sampled = f"the first {sample.num_rows} rows" if sample.num_rows == SAMPLE_ROWS else f"all {sample.num_rows} rows"
    notes.append(f"partitions: {', '.join(list(rows)[:6])}{' ...' if len(rows) > 6 else ''} ({sampled})")
    if profile.bands:
        notes.append(f"bands: {', '.join(profile.bands)}; choose some with band_codes")
        if not values.get("href_column"):
            values["band_codes"] = list(profile.bands)
    else:
        warnings.append("no asset looks like a GeoTIFF: name the bands with band_codes")
    if result.rejected.num_rows:
        classes = Counter(result.rejected[REJECT_CLASS].to_pylist())
        text = ", ".join(f"{count} {name}" for name, count in sorted(classes.items()))
        warnings.append(
            f"{result.rejected.num_rows} of {sampled} would be rejected ({text}): fix them in the source, or tolerate "
            "a share of them with max_rejected"
        )
    return rows


def _name_of(path: str) -> str:
    stem = Path(path.partition("?")[0].rstrip("/")).name.split(".")[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem).strip("_-") or "collection"
