"""Stage 3, band metadata: the ledger of headers and failures, with one row per record and band.

A header is fetched once per file, however many records and bands share the file. It is not fetched if the header store
has a valid row: of the same file, sample and parser, with an outcome that another try would not change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.error_classes import ErrorClass
from rasteret_assets.errors import EnrichmentError
from rasteret_assets.headers.failures import LOCAL_FILES, remedy
from rasteret_assets.headers.fetch import fetch_headers
from rasteret_assets.headers.index import FoundRows, HeaderIndex
from rasteret_assets.headers.outcomes import HeaderProgress, Latencies, ProgressCallback
from rasteret_assets.headers.places import Places
from rasteret_assets.headers.retried import RETRIED_CLASSES, nothing_earlier
from rasteret_assets.headers.rows import FreshRows, RowSink, ledger_rows, wrong_rows
from rasteret_assets.headers.store import HeaderRowReader, take_rows
from rasteret_assets.headers.targets import distinct_files, ledger_targets
from rasteret_assets.headers.workers import Workers
from rasteret_assets.schema import BAND_INDEX, HREF, ID, IDENTITY, RETRY_UNTIL, STATUS_OK
from rasteret_assets.secrets import BY_DEFAULT, SecretRule, redact
from rasteret_assets.storage.addresses.urls import host
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.io_errors import also_do
from rasteret_assets.storage.process.processes import run_sync

#: Most targets (records times bands) in a slice: one fetch asks for their headers, and their rows are in memory at
#: once.
SLICE_TARGETS = 65_536


@dataclass(kw_only=True)
class BandAccount:
    """Counts of what a ledger holds and of what it took to write the ledger.

    Args:
        rows: rows of the ledger.
        fetched: files whose header was fetched.
        reused: ledger rows whose header was stored already.
        drifted: ledger rows whose file had changed, though the record had not.
        requests: number of range requests.
        bytes: bytes that the requests brought.
        seconds: time of the fetches.
        latencies: seconds that each header took, without earlier tries.
        failures: number of rows without a header, by error class.
        conflicts: number of rows whose header is in another CRS than the record says.
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
        self.conflicts += pc.sum(pc.equal(rows["error_class"], ErrorClass.CRS_CONFLICT)).as_py() or 0


@dataclass(frozen=True, kw_only=True)
class StoredHeaders:
    """Stored headers, which need not be fetched.

    Args:
        index: index of the partition's header store.
        repeated: reads the columns of header rows that the ledger repeats.
        copy_unused: called with the targets whose header is not stored. It copies headers that other partitions no
            longer need into the store and the index, and returns whether it found any.
    """

    index: HeaderIndex
    repeated: HeaderRowReader
    copy_unused: Callable[[pa.Table], bool]


class BandMetadataReader:
    """Makes the ledger of a partition, slice by slice of its records.

    Args:
        bands: assets to read, in column order.
        backend: reads the headers.
        explicit: whether the bands were chosen by name; otherwise rows whose asset is not a raster are left out.
        places: which addresses may be asked.
        max_concurrent: most files in work at once.
        sink: gets the header rows that are fetched.
        stored: stored headers; None where there are none.
        overviews: whether to read the overviews that lie with the headers.
        revalidate: whether to ask for every stored header if its file has changed, and to read the header again then.
        progress: called while headers come in.
        rule: which parameters of addresses are secrets.
        retry_missing_for: days for which a file that does not exist is tried again.
        workers: the processes that fetch headers of the collection.
    """

    def __init__(
        self,
        bands: Sequence[str],
        backend: StorageBackend,
        *,
        explicit: bool,
        places: Places,
        max_concurrent: int,
        sink: RowSink,
        stored: StoredHeaders | None = None,
        overviews: bool = True,
        revalidate: bool = False,
        progress: ProgressCallback | None = None,
        rule: SecretRule = BY_DEFAULT,
        retry_missing_for: float = 0.0,
        workers: Workers | None = None,
    ) -> None:
        self.workers = workers
        self.bands = bands
        self.retry_missing_for = retry_missing_for
        self.rule = rule
        self.backend = backend
        self.explicit = explicit
        self.places = places
        self.max_concurrent = max_concurrent
        self.sink = sink
        self.stored = stored
        self.overviews = overviews
        self.revalidate = revalidate
        self.progress = progress
        self.account = BandAccount()
        self._before = HeaderProgress(total=0)
        self._records = 0

    @property
    def slice_rows(self) -> int:
        """Number of records in a slice."""
        return max(1, SLICE_TARGETS // max(1, len(self.bands)))

    def read(self, records: pa.Table, more: int = 0) -> pa.Table:
        """Return the ledger of one slice of normalized records.

        Args:
            records: with the columns of :data:`~rasteret_assets.headers.targets.TARGET_COLUMNS`.
            more: number of records of the partition after these, for the progress.
        """
        targets = ledger_targets(records, self.bands, explicit=self.explicit, places=self.places, rule=self.rule)
        askable = np.asarray(pc.is_null(targets["error_class"]), bool)
        found = self._find(targets, askable)
        wanted = (found.files < 0) & askable
        validators = self._validators(found) if self.revalidate else None
        files, file_of_row = distinct_files(targets, wanted, validators)
        fresh = FreshRows(
            targets, files, file_of_row, self.sink, earlier=self._earlier(found), days=self.retry_missing_for
        )
        self._records += records.num_rows
        if files:
            self._fetch(fresh, more)
        places = fresh.places()
        was_stored, is_fresh = found.files >= 0, places[0] >= 0
        drifted = int((was_stored & is_fresh).sum())
        self.account.fetched += len(files) - fresh.unchanged
        self.account.reused += int(was_stored.sum()) - drifted
        self.account.drifted += drifted
        rows = self._ledger(targets, found, fresh)
        self.account.count(rows)
        if more and fresh.added and self.stored is not None:
            # So that a file of a later slice as well is not asked for again.
            self.sink.save()
            self.stored.index.add(fresh.added)
        return rows

    def _find(self, targets: pa.Table, askable: npt.NDArray[np.bool_]) -> FoundRows:
        if self.stored is None:
            return HeaderIndex().find(targets)
        found = self.stored.index.find(targets)
        unknown = (found.files < 0) & askable
        if unknown.any() and self.stored.copy_unused(targets.select([IDENTITY, BAND_INDEX]).filter(pa.array(unknown))):
            self.sink.save()
            found = self.stored.index.find(targets)
        # Not for addresses that may not be asked, because the stored header may have been read under another spec.
        return found._replace(files=np.where(askable, found.files, -1))

    def _earlier(self, found: FoundRows) -> pa.Table:
        """Return the earlier outcome of every target that is asked for again; nulls for all other targets."""
        columns = ["error_class", RETRY_UNTIL]
        if self.stored is None or not (found.outdated >= 0).any():
            return nothing_earlier(len(found.files))
        return self._repeated(found.outdated, found.rows).select(columns)

    def _validators(self, found: FoundRows) -> pa.Table:
        """Return the validators of the stored header of every target; nulls where no header is stored."""
        columns = ["etag", "last_modified", "status"]
        return self._repeated(found.files, found.rows).select(columns)

    def _repeated(self, files: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> pa.Table:
        if self.stored is None:
            return wrong_rows(pa.table({"error_class": pa.nulls(len(files)), "error": pa.nulls(len(files))}))
        return self.stored.repeated.take(self.stored.index.names, files, rows)

    def _ledger(self, targets: pa.Table, found: FoundRows, fresh: FreshRows) -> pa.Table:
        """Return the ledger rows of a slice: of fetched headers, of stored headers, and of targets with an error."""
        files, rows = fresh.places()
        is_fresh = files >= 0
        is_stored = ~is_fresh & (found.files >= 0)
        is_wrong = ~is_fresh & ~is_stored
        parts = [
            fresh.repeated(np.flatnonzero(is_fresh)),
            self._repeated(found.files[is_stored], found.rows[is_stored]),
            wrong_rows(targets.filter(pa.array(is_wrong))),
        ]
        places = [np.flatnonzero(mask) for mask in (is_fresh, is_stored, is_wrong)]
        order = np.argsort(np.concatenate(places), kind="stable")
        stored_names = self.stored.index.names if self.stored is not None else []
        codes = np.where(is_fresh, files, np.where(is_stored, found.files + len(fresh.names), -1))
        vocabulary = pa.array([*fresh.names, *stored_names], pa.string())
        names = vocabulary.take(pa.array(codes, mask=codes < 0))
        numbers = np.where(is_fresh, rows, found.rows)
        return ledger_rows(
            targets, take_rows(pa.concat_tables(parts), order), names, pa.array(numbers, pa.int32(), mask=codes < 0)
        )

    def _fetch(self, fresh: FreshRows, more: int) -> None:
        before, watch = self._before, self.progress
        share = more / max(1, self._records)

        def report(now: HeaderProgress) -> None:
            if watch is not None:
                done = before.total + now.total
                watch(_sum(before, now, total=done + round(done * share)))

        fetching = fetch_headers(
            fresh.files, self.backend, fresh.take, max_concurrent=self.max_concurrent, overviews=self.overviews,
            progress=report, workers=self.workers,
        )  # fmt: skip
        try:
            account = run_sync(fetching)
        except BaseException as error:
            # Also after an interrupt, so that finished headers need not be fetched again.
            also_do(self.sink.save, error)
            raise
        self._before = _sum(before, account, total=before.total + account.total)
        self.account.requests += account.requests
        self.account.bytes += account.bytes
        self.account.seconds += account.seconds
        self.account.latencies.update(account.latencies)


def _sum(before: HeaderProgress, now: HeaderProgress, *, total: int) -> HeaderProgress:
    """Return the progress over all slices so far."""
    started = before.started if before.total else now.started
    return replace(
        now, total=total, done=before.done + now.done, failed=before.failed + now.failed,
        requests=before.requests + now.requests, bytes=before.bytes + now.bytes, started=started,
    )  # fmt: skip


def count_failures(table: pa.Table) -> dict[str, int]:
    """Count the rows without a header, by error class."""
    failed = table.filter(pc.not_equal(table["status"], STATUS_OK))["error_class"]
    counts = failed.combine_chunks().value_counts()
    return dict(sorted(zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)))


def check_enrichment(ledgers: Sequence[pa.Table], *, transient_only: bool = False) -> None:
    """Refuse a build in which not a single header could be read.

    Args:
        ledgers: band metadata of all partitions of the build.
        transient_only: whether to refuse only if another try may succeed for every header.

    Raises:
        EnrichmentError: with the most frequent failures, the first failure, and what helps.
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
