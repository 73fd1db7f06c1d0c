"""Stage 3, band metadata: one row per record and band - the header cache, the resume point and the failure ledger.

A header is fetched once per file, however many records and bands share it, and not at all where the last ledger still
holds: same file and sample, same parser, and an outcome that another try would not change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.errors import EnrichmentError
from rasteret_assets.headers.failures import LOCAL_FILES, remedy
from rasteret_assets.headers.fetch import fetch_headers
from rasteret_assets.headers.index import HeaderIndex, KnownRows, KnownTable
from rasteret_assets.headers.outcomes import HeaderProgress, Latencies, ProgressCallback
from rasteret_assets.headers.rows import Checkpoint, FreshRows, assemble_ledger
from rasteret_assets.headers.targets import RETRIED_CLASSES, distinct_files, ledger_targets
from rasteret_assets.schema import BAND_METADATA_SCHEMA, CRS_CONFLICT, HREF, ID, STATUS_OK
from rasteret_assets.storage.aio import run_sync
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.urls import host, redact


@dataclass(kw_only=True)
class BandAccount:
    """What it took to write a ledger.

    Args:
        rows: rows of the ledger.
        fetched: files whose header was fetched.
        reused: ledger rows taken from an earlier ledger.
        drifted: ledger rows whose file had changed, though the record had not.
        requests: range requests made.
        bytes: bytes those brought.
        seconds: time the fetch took.
        latencies: how long each header took that was read, retries left out.
        failures: rows without a header by error class.
        conflicts: rows whose header is in another CRS than the record says.
    """

    rows: int = 0
    fetched: int = 0
    reused: int = 0
    drifted: int = 0
    requests: int = 0
    bytes: int = 0
    seconds: float = 0.0
    latencies: Latencies = field(default_factory=Latencies)
    failures: Counter[str] = field(default_factory=Counter)
    conflicts: int = 0

    def count(self, rows: pa.Table) -> None:
        """Add rows of the ledger."""
        self.rows += rows.num_rows
        self.failures.update(count_failures(rows))
        self.conflicts += pc.sum(pc.equal(rows["error_class"], CRS_CONFLICT)).as_py() or 0


@dataclass(frozen=True, kw_only=True)
class BandMetadata:
    """The ledger of a partition, and what it took.

    Args:
        table: rows of :data:`~rasteret_assets.schema.BAND_METADATA_SCHEMA`, record by record in band order.
        account: what it took.
    """

    table: pa.Table
    account: BandAccount


class BandMetadataReader:
    """Reads the band metadata of a partition, slice by slice of its records.

    Args:
        bands: assets to read, in column order.
        backend: where headers come from.
        explicit: whether the bands were chosen by name; otherwise rows whose asset is no raster are left out.
        max_concurrent: files in work at once.
        overviews: whether to read the overviews that lie with the headers.
        known: headers of earlier ledgers, to reuse what still holds.
        revalidate: ask for every header that is reused whether its file has changed, and read it again if so.
        checkpoint: keeps finished rows while the stage runs.
        progress: called while headers come in.
    """

    def __init__(
        self,
        bands: Sequence[str],
        backend: StorageBackend,
        *,
        explicit: bool,
        max_concurrent: int,
        known: HeaderIndex,
        overviews: bool = True,
        revalidate: bool = False,
        checkpoint: Checkpoint | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        self.bands = bands
        self.backend = backend
        self.explicit = explicit
        self.max_concurrent = max_concurrent
        self.overviews = overviews
        self.known = known
        self.revalidate = revalidate
        self.checkpoint = checkpoint
        self.progress = progress
        self.account = BandAccount()
        self._before = HeaderProgress(total=0)
        self._records = 0

    def read(self, records: pa.Table, more: int = 0) -> Iterator[pa.Table]:
        """The ledger of one slice of normalized records, in bounded steps.

        Args:
            records: with the columns of :data:`~rasteret_assets.headers.targets.TARGET_COLUMNS`.
            more: records of the partition after these, for the progress.
        """
        targets = ledger_targets(records, self.bands, explicit=self.explicit)
        found = self.known.find(targets)
        wanted = (found < 0) & np.asarray(pc.is_null(targets["error_class"]), bool)
        validators = self._validators(found) if self.revalidate else None
        files, file_of_row = distinct_files(targets, wanted, validators)
        fresh = FreshRows(targets, files, file_of_row, self.checkpoint)
        self._records += records.num_rows
        if files:
            self._fetch(fresh, more)
        was_known = found >= 0
        drifted = int((was_known & (fresh.groups >= 0)).sum())
        self.account.fetched += len(files) - fresh.unchanged
        self.account.reused += int(was_known.sum()) - drifted
        self.account.drifted += drifted
        for rows in assemble_ledger(targets, self.known, found, fresh):
            self.account.count(rows)
            yield rows
        if more and fresh.saved:
            # A file that a later slice refers to as well is not asked for again.
            self.known.add(fresh.saved)

    def _validators(self, found: np.ndarray) -> pa.Table:
        """What the known header of every target was read under; nulls where none is known."""
        columns = ["etag", "last_modified", "status"]
        rows = np.flatnonzero(found >= 0)
        places = np.full(len(found), -1, np.int64)
        places[rows] = np.arange(len(rows))
        return self.known.take(found[rows], columns).take(pa.array(places, mask=places < 0))

    def _fetch(self, fresh: FreshRows, more: int) -> None:
        before, watch = self._before, self.progress
        share = more / max(1, self._records)

        def report(now: HeaderProgress) -> None:
            if watch is not None:
                done = before.total + now.total
                watch(_sum(before, now, total=done + round(done * share)))

        fetching = fetch_headers(
            fresh.files, self.backend, fresh.take, max_concurrent=self.max_concurrent, overviews=self.overviews,
            progress=report,
        )  # fmt: skip
        try:
            account = run_sync(fetching)
        except BaseException:
            # Also where an interrupt ends it: what is finished need not be asked for again.
            fresh.keep()
            raise
        fresh.keep(last=not more)
        self._before = _sum(before, account, total=before.total + account.total)
        self.account.requests += account.requests
        self.account.bytes += account.bytes
        self.account.seconds += account.seconds
        self.account.latencies.update(account.latencies)


def _sum(before: HeaderProgress, now: HeaderProgress, *, total: int) -> HeaderProgress:
    """Progress over all slices so far."""
    started = before.started if before.total else now.started
    return replace(
        now, total=total, done=before.done + now.done, failed=before.failed + now.failed,
        requests=before.requests + now.requests, bytes=before.bytes + now.bytes, started=started,
    )  # fmt: skip


def read_band_metadata(
    records: pa.Table,
    bands: Sequence[str],
    backend: StorageBackend,
    *,
    explicit: bool,
    max_concurrent: int,
    overviews: bool = True,
    previous: pa.Table | None = None,
    revalidate: bool = False,
    checkpoint: Checkpoint | None = None,
    progress: ProgressCallback | None = None,
) -> BandMetadata:
    """The band metadata of normalized records, in memory.

    Args:
        records: normalized records.
        bands: assets to read, in column order.
        backend: where headers come from.
        explicit: whether the bands were chosen by name; otherwise rows whose asset is no raster are left out.
        max_concurrent: files in work at once.
        overviews: whether to read the overviews that lie with the headers.
        previous: the last ledger, to reuse what still holds.
        revalidate: ask for every header that is reused whether its file has changed, and read it again if so.
        checkpoint: keeps finished rows while the stage runs, and gives back those of an interrupted run.
        progress: called while headers come in.
    """
    left: list[KnownRows] = list(checkpoint.load()) if checkpoint is not None else []
    last: list[KnownRows] = [KnownTable(table=previous)] if previous is not None else []
    reader = BandMetadataReader(
        bands, backend, explicit=explicit, max_concurrent=max_concurrent, known=HeaderIndex([*left, *last]),
        overviews=overviews, revalidate=revalidate, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    steps = list(reader.read(records))
    return BandMetadata(table=pa.concat_tables([BAND_METADATA_SCHEMA.empty_table(), *steps]), account=reader.account)


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
        EnrichmentError: with the commonest failures, the first of them, and what helps.
    """
    total = sum(ledger.num_rows for ledger in ledgers)
    failed = [ledger.filter(pc.not_equal(ledger["status"], STATUS_OK)) for ledger in ledgers]
    if not total or sum(part.num_rows for part in failed) < total:
        return
    rows = pa.concat_tables(failed)
    if transient_only and not pc.all(pc.is_in(rows["error_class"], pa.array(RETRIED_CLASSES))).as_py():
        return
    counts = count_failures(rows)
    classes = ", ".join(f"{count} {name}" for name, count in counts.items())
    helps = "; ".join(f"{name}: {remedy(name)}" for name, _ in Counter(counts).most_common(3))
    hosts = sorted({host(href) or LOCAL_FILES for href in rows[HREF].drop_null().to_pylist()})
    first = rows.slice(0, 1).to_pylist()[0]
    place, href = f"record {first[ID]!r}, band {first['band']!r}", redact(first[HREF] or "")
    place += "" if href in first["error"] else f", {href}"
    raise EnrichmentError(
        f"not one of {total} headers could be read ({classes}) from {', '.join(hosts[:5])}. "
        f"The first ({place}): {first['error']}. What helps: {helps}"
    )
