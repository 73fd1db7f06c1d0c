"""Stage 3, band metadata: one row per record and band - the header cache, the resume point and the failure ledger.

A header is fetched once per file, however many records and bands share it, and not at all where the last ledger still
holds: same file and sample, same parser, and an outcome that another try would not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.errors import (
    AccessDeniedError,
    EnrichmentError,
    HostUnreachableError,
    RangeReadError,
    RasteretAssetsError,
    ReadTimeoutError,
    StoreUnavailableError,
    ThrottledError,
    TruncatedReadError,
    UnsupportedTiffError,
)
from rasteret_assets.schema import (
    ASSETS,
    BAND_INDEX,
    BAND_METADATA_SCHEMA,
    BAND_STRUCT,
    HREF,
    ID,
    PARSER_VERSION,
    STATUS_FAILED,
    STATUS_OK,
    STATUS_UNSUPPORTED,
    TIMESTAMP,
)
from rasteret_assets.stages.assets import asset_field, raster_rows
from rasteret_assets.stages.columns import plain
from rasteret_assets.stages.headers import HeaderOutcome, HeaderProgress, HeaderTarget, ProgressCallback, fetch_headers
from rasteret_assets.storage.aio import run_sync
from rasteret_assets.storage.backend import StorageBackend, Validators
from rasteret_assets.storage.urls import host, unsigned_hrefs
from rasteret_assets.tiff import TiffHeader

#: Failures that a later run tries again by itself: those of the moment, of the network, or of credentials.
RETRIED_CLASSES: Final = tuple(
    kind.error_class
    for kind in (
        RangeReadError, AccessDeniedError, TruncatedReadError, StoreUnavailableError, ThrottledError,
        HostUnreachableError, ReadTimeoutError,
    )
)  # fmt: skip

#: Columns of the ledger that a header fetch decides; the others are what was asked for.
_CACHED_COLUMNS = (
    "status", "error_class", "error", "attempts", "attempted_at", "etag", "last_modified", "content_length", "header"
)  # fmt: skip


#: Rows of the ledger are put in order in slices of about this size.
_TAKE_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class BandMetadata:
    """The ledger of a partition and what it took to write it.

    Args:
        table: rows of :data:`~rasteret_assets.schema.BAND_METADATA_SCHEMA`, record by record in band order.
        fetched: files whose header was fetched.
        reused: ledger rows taken from the previous ledger.
        drifted: ledger rows whose file had changed, though the record had not.
        requests: range requests made.
        bytes: bytes those brought.
        seconds: time the fetch took.
        failures: rows without a header by error class.
    """

    table: pa.Table
    fetched: int = 0
    reused: int = 0
    drifted: int = 0
    requests: int = 0
    bytes: int = 0
    seconds: float = 0.0
    failures: dict[str, int] = field(default_factory=dict)


class Checkpoint(Protocol):
    """Keeps finished ledger rows of a stage that is still running."""

    def load(self) -> pa.Table | None:
        """Rows that an interrupted run left behind, if any."""
        ...

    def save(self, rows: pa.Table) -> None:
        """Keep rows of :data:`~rasteret_assets.schema.BAND_METADATA_SCHEMA` until the stage is done."""
        ...


def read_band_metadata(
    records: pa.Table,
    bands: Sequence[str],
    backend: StorageBackend,
    *,
    explicit: bool,
    max_concurrent: int,
    previous: pa.Table | None = None,
    force: bool = False,
    revalidate: bool = False,
    checkpoint: Checkpoint | None = None,
    progress: ProgressCallback | None = None,
) -> BandMetadata:
    """The band metadata of normalized records.

    Args:
        records: normalized records of one partition.
        bands: assets to read, in column order.
        backend: where headers come from.
        explicit: whether the bands were chosen by name; otherwise rows whose asset is no raster are left out.
        max_concurrent: files in work at once.
        previous: the partition's last ledger, to reuse what still holds.
        force: fetch every header again.
        revalidate: ask for every header that is reused whether its file has changed, and read it again if so.
        checkpoint: keeps finished rows while the stage runs, and gives back those of an interrupted run.
        progress: called while headers come in.
    """
    targets = _targets(records, bands, explicit=explicit)
    known = _known_rows(None if force else previous, checkpoint.load() if checkpoint and not force else None)
    cached = _cached_rows(targets, known)
    wanted = pc.and_(pc.is_null(cached), pc.is_null(targets["error_class"]))
    validators = known.select(["etag", "last_modified", "status"]).take(cached) if revalidate else None
    files, file_of_row = _distinct_files(targets, wanted, validators)
    fresh = _FreshRows(targets, files, file_of_row, checkpoint)
    account = HeaderProgress(total=0)
    if files:
        account = run_sync(fetch_headers(files, backend, fresh.take, max_concurrent=max_concurrent, progress=progress))
    table = _assemble(targets, cached, known, fresh)
    was_known = np.asarray(pc.is_valid(cached))
    drifted = int(was_known[fresh.positions].sum())
    return BandMetadata(
        table=table, fetched=len(files) - fresh.unchanged, reused=int(was_known.sum()) - drifted, drifted=drifted,
        requests=account.requests, bytes=account.bytes, seconds=account.seconds if files else 0.0,
        failures=count_failures(table),
    )  # fmt: skip


def count_failures(table: pa.Table) -> dict[str, int]:
    """Rows without a header, by error class."""
    failed = table.filter(pc.not_equal(table["status"], STATUS_OK))["error_class"]
    counts = failed.combine_chunks().value_counts()
    return dict(sorted(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)))


def check_enrichment(ledgers: Sequence[pa.Table], *, transient_only: bool = False) -> None:
    """Refuse a build of which not one header could be read.

    Args:
        ledgers: band metadata of all partitions of the build.
        transient_only: refuse only where every failure is one that another try may mend.

    Raises:
        EnrichmentError: with the commonest failures and the likely causes.
    """
    total = sum(ledger.num_rows for ledger in ledgers)
    failed = [ledger.filter(pc.not_equal(ledger["status"], STATUS_OK)) for ledger in ledgers]
    if not total or sum(part.num_rows for part in failed) < total:
        return
    rows = pa.concat_tables(failed)
    if transient_only and not pc.all(pc.is_in(rows["error_class"], pa.array(RETRIED_CLASSES))).as_py():
        return
    classes = ", ".join(f"{count} {name}" for name, count in count_failures(rows).items())
    hosts = sorted({host(href) or "local files" for href in rows[HREF].drop_null().to_pylist()})
    raise EnrichmentError(
        f"not one of {total} headers could be read ({classes}) from {', '.join(hosts[:5])}. "
        f"The first: {rows['error'][0]}. "
        "Likely causes: the host is down or throttles, hrefs need url_rewrite_patterns or a backend with credentials, "
        "requester pays is not declared, or the bands are no tiled GeoTIFFs"
    )


def _targets(records: pa.Table, bands: Sequence[str], *, explicit: bool) -> pa.Table:
    """One row per record and band: what to fetch (``signed``), what to store (``href``), and what is wrong already."""
    assets = records[ASSETS].combine_chunks()
    ids = records[ID].combine_chunks()
    parts, order = [], []
    kinds = list(assets.type) if pa.types.is_struct(assets.type) else []
    present = {child.name: position for position, child in enumerate(kinds)}
    for rank, band in enumerate(bands):
        if band not in present:
            continue
        asset = pc.struct_field(assets, [present[band]])
        chosen = pc.is_valid(asset) if explicit else raster_rows(asset)
        rows = np.flatnonzero(np.asarray(chosen))
        asset = asset.take(pa.array(rows))
        href = asset_field(asset, HREF)
        index, bad_index = _band_indices(asset)
        error_class = pc.if_else(pc.is_null(href), "no_href", pc.if_else(bad_index, "invalid_band_index", None))
        error = pc.case_when(
            pc.make_struct(pc.is_null(href), bad_index),
            f"the record's asset {band!r} has no href",
            f"band_index of asset {band!r} is no whole number from 0",
        )
        parts.append(pa.table({
            ID: ids.take(pa.array(rows)), "band": pa.array([band] * len(rows), pa.string()), "signed": href,
            HREF: unsigned_hrefs(href), BAND_INDEX: index,
            "error_class": error_class.cast(pa.string()), "error": error.cast(pa.string()),
        }))  # fmt: skip
        order.append(rows * len(bands) + rank)
    if not parts:
        names = {**{name: pa.string() for name in (ID, "band", "signed", HREF)}, BAND_INDEX: pa.int32()}
        return pa.schema([*names.items(), ("error_class", pa.string()), ("error", pa.string())]).empty_table()
    return pa.concat_tables(parts).combine_chunks().take(pa.array(np.argsort(np.concatenate(order), kind="stable")))


def _band_indices(asset: pa.Array) -> tuple[pa.Array, pa.Array]:
    """0-based sample of every row, and a mask of what is no index; 0 where the asset names none."""
    rows = len(asset)
    if BAND_INDEX not in {child.name for child in asset.type}:
        return pa.array(np.zeros(rows, np.int32)), pa.array(np.zeros(rows, bool))
    text = pc.utf8_trim_whitespace(plain(asset_field(asset, BAND_INDEX)).cast(pa.string()))
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    good = pc.fill_null(pc.match_substring_regex(text, r"^\+?\d{1,9}(\.0+)?$"), fill_value=False)
    number = pc.replace_substring_regex(pc.if_else(good, text, "0"), r"^\+|\.0+$", "").cast(pa.int32())
    return number, pc.and_(pc.is_valid(text), pc.invert(good))


def _known_rows(*ledgers: pa.Table | None) -> pa.Table:
    """Rows of earlier ledgers that still hold; those of another layout are left aside."""
    usable = [ledger for ledger in ledgers if ledger is not None and ledger.schema.names == BAND_METADATA_SCHEMA.names]
    table = pa.concat_tables(
        [BAND_METADATA_SCHEMA.empty_table(), *(ledger.cast(BAND_METADATA_SCHEMA) for ledger in usable)]
    )
    stale = pc.is_in(table["error_class"], pa.array(RETRIED_CLASSES))
    holds = pc.and_(pc.equal(table["parser_version"], PARSER_VERSION), pc.invert(stale))
    return table if pc.all(holds).as_py() else table.filter(holds)


def _cached_rows(targets: pa.Table, known: pa.Table) -> pa.Array:
    """Row of ``known`` for each target; null where the header must be fetched."""
    return pc.index_in(_keys(targets), value_set=_keys(known)).cast(pa.int64())


def _keys(table: pa.Table) -> pa.Array:
    """Text that is equal for equal (href, band_index); null where there is no href."""
    index = table[BAND_INDEX].cast(pa.string())
    return pc.binary_join_element_wise(index, table[HREF], " ").combine_chunks()


def _distinct_files(
    targets: pa.Table, wanted: pa.Array, validators: pa.Table | None
) -> tuple[list[HeaderTarget], npt.NDArray[np.int64]]:
    """Files to ask for, each once, and for every target the position of its file (-1 where none is asked for).

    Args:
        targets: what is to be in the ledger.
        wanted: which targets need their header.
        validators: what the known rows were read under, by target; None where nothing is to be revalidated.
    """
    file_of_row = np.full(targets.num_rows, -1, np.int64)
    asked = np.asarray(wanted)
    needed = asked
    if validators is not None:
        tagged = pc.or_(pc.is_valid(validators["etag"]), pc.is_valid(validators["last_modified"]))
        known_ok = pc.and_(pc.equal(validators["status"], STATUS_OK), tagged)
        asked = needed | np.asarray(pc.fill_null(known_ok, fill_value=False))
    rows = np.flatnonzero(asked)
    if not len(rows):
        return [], file_of_row
    encoded = targets[HREF].combine_chunks().take(pa.array(rows)).dictionary_encode()
    codes = np.asarray(encoded.indices)
    file_of_row[rows] = codes
    _, first = np.unique(codes, return_index=True)
    # A file that some target needs is read without conditions, whatever is known of it for another target.
    conditional = np.ones(len(first), bool)
    conditional[codes[needed[rows]]] = False
    chosen = targets.take(pa.array(rows[first]))
    known: list[Validators | None] = [None] * len(first)
    if validators is not None:
        tags = validators.take(pa.array(rows[first]))
        pairs = zip(tags["etag"].to_pylist(), tags["last_modified"].to_pylist(), conditional, strict=True)
        known = [Validators(etag, modified) if condition else None for etag, modified, condition in pairs]
    addresses = zip(chosen["signed"].to_pylist(), chosen["band"].to_pylist(), known, strict=True)
    return [HeaderTarget(href=href, family=band, known=tags) for href, band, tags in addresses], file_of_row


class _FreshRows:
    """Collects finished headers as ledger rows, group by group, so that parsed headers are not kept as objects.

    Args:
        targets: what is to be in the ledger.
        files: the files that are asked for.
        file_of_row: for every target the position of its file, -1 where none is asked for.
        checkpoint: keeps each group as it comes.
    """

    def __init__(
        self,
        targets: pa.Table,
        files: Sequence[HeaderTarget],
        file_of_row: npt.NDArray[np.int64],
        checkpoint: Checkpoint | None,
    ) -> None:
        self.targets = targets
        self.files = files
        self.checkpoint = checkpoint
        fetched = np.flatnonzero(file_of_row >= 0)
        self._by_file = fetched[np.argsort(file_of_row[fetched], kind="stable")]
        self._starts = np.searchsorted(file_of_row[self._by_file], np.arange(len(files) + 1))
        self._indices = targets[BAND_INDEX].combine_chunks().to_numpy(zero_copy_only=False)
        self._rows: list[npt.NDArray[np.int64]] = []
        self.tables: list[pa.Table] = []
        self.unchanged = 0

    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Target of every row in ``tables``, laid end to end."""
        return np.concatenate([np.zeros(0, np.int64), *self._rows])

    def take(self, files: Sequence[int], outcomes: Sequence[HeaderOutcome]) -> None:
        """A group of finished files: each becomes one row per target that it serves."""
        changed = [(f, o) for f, o in zip(files, outcomes, strict=True) if not self._stands(self.files[f], o)]
        self.unchanged += len(files) - len(changed)
        if not changed:
            return
        spans = [self._by_file[self._starts[file] : self._starts[file + 1]] for file, _ in changed]
        rows = np.concatenate(spans)
        served = [outcome for (_, outcome), span in zip(changed, spans, strict=True) for _ in range(len(span))]
        table = _fresh_rows(served, self._indices[rows].tolist())
        self._rows.append(rows)
        self.tables.append(table)
        if self.checkpoint is not None:
            self.checkpoint.save(_ledger(self.targets.take(pa.array(rows)), table))

    def _stands(self, target: HeaderTarget, outcome: HeaderOutcome) -> bool:
        """Whether the header that is known stays: its file has not changed, or could not be asked just now."""
        transient = outcome.error is not None and outcome.error.error_class in RETRIED_CLASSES
        return outcome.unchanged or (target.known is not None and transient)


def _assemble(targets: pa.Table, cached: pa.Array, known: pa.Table, fresh: _FreshRows) -> pa.Table:
    """The ledger: fetched rows, known rows, and rows that were wrong from the start, in target order."""
    fetched = fresh.positions
    place = np.arange(targets.num_rows, dtype=np.int64) + len(fetched) + known.num_rows
    reused = np.asarray(pc.is_valid(cached))
    place[reused] = len(fetched) + np.asarray(cached.drop_null())
    place[fetched] = np.arange(len(fetched))
    if len(place) and np.array_equal(fetched, np.arange(len(place))):
        return _ledger(targets, pa.concat_tables(fresh.tables))
    return _ledger(targets, _take([*fresh.tables, known.select(list(_CACHED_COLUMNS)), _wrong_rows(targets)], place))


def _take(tables: Sequence[pa.Table], rows: npt.NDArray[np.int64]) -> pa.Table:
    """Rows of several tables laid end to end, in the order asked for.

    Arrow's own take would first copy all tables into one, which for tile tables is the most memory a build ever holds.
    """
    starts = np.cumsum([0, *(table.num_rows for table in tables)])
    bytes_per_row = sum(table.nbytes for table in tables) // max(1, int(starts[-1])) + 1
    step = max(1, _TAKE_BYTES // bytes_per_row)
    slices = []
    for begin in range(0, max(len(rows), 1), step):
        wanted = rows[begin : begin + step]
        source = np.searchsorted(starts, wanted, side="right") - 1
        parts = [tables[0].slice(0, 0)]
        order = [np.zeros(0, np.int64)]
        for number in np.unique(source):
            mine = np.flatnonzero(source == number)
            parts.append(tables[number].take(pa.array(wanted[mine] - starts[number])))
            order.append(mine)
        joined = pa.concat_tables(parts).combine_chunks()
        slices.append(joined.take(pa.array(np.argsort(np.concatenate(order), kind="stable"))))
    return pa.concat_tables(slices)


def _ledger(targets: pa.Table, values: pa.Table) -> pa.Table:
    """Ledger rows from targets and what is known of each."""
    columns: dict[str, Any] = {name: targets[name] for name in (ID, "band", HREF, BAND_INDEX)}
    columns |= {name: values[name] for name in _CACHED_COLUMNS}
    columns["parser_version"] = pa.array(np.full(targets.num_rows, PARSER_VERSION, np.int32))
    return pa.table({name: columns[name] for name in BAND_METADATA_SCHEMA.names}, BAND_METADATA_SCHEMA)


def _wrong_rows(targets: pa.Table) -> pa.Table:
    rows = targets.num_rows
    blank = {name: pa.nulls(rows, BAND_METADATA_SCHEMA.field(name).type) for name in _CACHED_COLUMNS}
    blank |= {"error_class": targets["error_class"], "error": targets["error"]}
    blank |= {"status": pa.array([STATUS_FAILED] * rows, pa.string()), "attempts": pa.array(np.zeros(rows, np.int32))}
    return pa.table(blank)


def _fresh_rows(outcomes: Sequence[HeaderOutcome], band_indices: Sequence[int]) -> pa.Table:
    """Ledger columns of fetched outcomes, one row per (file, band index)."""
    headers: list[TiffHeader | None] = []
    errors: list[RasteretAssetsError | None] = []
    for outcome, index in zip(outcomes, band_indices, strict=True):
        header, error = outcome.header, outcome.error
        if header is not None and index >= header.samples_per_pixel:
            names = f"band_index {index} is out of range: the file has {header.samples_per_pixel} bands, counted from 0"
            header, error = None, UnsupportedTiffError(names)
        headers.append(header)
        errors.append(error)
    kinds = [
        None if e is None else STATUS_UNSUPPORTED if isinstance(e, UnsupportedTiffError) else STATUS_FAILED
        for e in errors
    ]
    return pa.table(
        {
            "status": pa.array([kind or STATUS_OK for kind in kinds], pa.string()),
            "error_class": pa.array([e and e.error_class for e in errors], pa.string()),
            "error": pa.array([e and str(e) for e in errors], pa.string()),
            "attempts": pa.array([o.attempts for o in outcomes], pa.int32()),
            "attempted_at": pa.array([datetime.now(UTC)] * len(outcomes), TIMESTAMP),
            "etag": pa.array([o.etag for o in outcomes], pa.string()),
            "last_modified": pa.array([o.last_modified for o in outcomes], pa.string()),
            "content_length": pa.array([o.size for o in outcomes], pa.int64()),
            "header": header_structs(headers, band_indices),
        }
    )


def header_structs(headers: Sequence[TiffHeader | None], band_indices: Sequence[int]) -> pa.StructArray:
    """Headers as structs of :data:`~rasteret_assets.schema.BAND_STRUCT`; tile tables stay numpy buffers."""
    tiles = [None if h is None else h.band_tiles(i) for h, i in zip(headers, band_indices, strict=True)]
    scalars = {
        "image_width": "width", "image_height": "height", "tile_width": "tile_width", "tile_height": "tile_height",
        "dtype": "dtype_name", "predictor": "predictor", "compression": "compression", "nodata": "nodata",
        "samples_per_pixel": "samples_per_pixel", "planar_configuration": "planar_configuration",
        "photometric": "photometric", "epsg": "epsg", "crs": "crs", "nodata_text": "nodata_text",
        "jpeg_tables": "jpeg_tables", "transform": "transform", "pixel_scale": "pixel_scale", "tiepoint": "tiepoint",
        "extra_samples": "extra_samples",
    }  # fmt: skip
    columns = {
        name: pa.array([None if h is None else getattr(h, attribute) for h in headers], BAND_STRUCT.field(name).type)
        for name, attribute in scalars.items()
    }
    columns["tile_offsets"] = _lists([None if t is None else t[0] for t in tiles])
    columns["tile_byte_counts"] = _lists([None if t is None else t[1] for t in tiles])
    columns[BAND_INDEX] = pa.array(
        [None if h is None else i for h, i in zip(headers, band_indices, strict=True)], pa.int32()
    )
    missing = pa.array([h is None for h in headers], pa.bool_())
    return pa.StructArray.from_arrays(
        [columns[child.name] for child in BAND_STRUCT], fields=list(BAND_STRUCT), mask=missing
    )


def _lists(arrays: Sequence[npt.NDArray[np.integer] | None]) -> pa.ListArray:
    lengths = np.array([0 if array is None else len(array) for array in arrays], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    present = [array for array in arrays if array is not None]
    # The one copy of the tables: widened to 64 bits on their way into the Arrow buffer.
    values = np.concatenate([np.zeros(0, np.int64), *present], dtype=np.int64, casting="unsafe")
    mask = pa.array([array is None for array in arrays], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, pa.int64()), mask=mask)
