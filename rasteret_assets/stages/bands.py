"""Stage 3, band metadata: one row per record and band - the header cache, the resume point and the failure ledger.

A header is fetched once per file, however many records and bands share it, and not at all where the last ledger still
holds: same file and sample, same parser, and an outcome that another try would not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.errors import EnrichmentError
from rasteret_assets.schema import HREF, STATUS_OK
from rasteret_assets.stages.fetch import fetch_headers
from rasteret_assets.stages.headers import HeaderProgress, ProgressCallback
from rasteret_assets.stages.rows import Checkpoint, FreshRows, assemble_ledger
from rasteret_assets.stages.targets import RETRIED_CLASSES, cached_rows, distinct_files, known_rows, ledger_targets
from rasteret_assets.storage.aio import run_sync
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.urls import host


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
    targets = ledger_targets(records, bands, explicit=explicit)
    known = known_rows(None if force else previous, checkpoint.load() if checkpoint and not force else None)
    cached = cached_rows(targets, known)
    wanted = pc.and_(pc.is_null(cached), pc.is_null(targets["error_class"]))
    validators = known.select(["etag", "last_modified", "status"]).take(cached) if revalidate else None
    files, file_of_row = distinct_files(targets, wanted, validators)
    fresh = FreshRows(targets, files, file_of_row, checkpoint)
    account = HeaderProgress(total=0)
    if files:
        account = run_sync(fetch_headers(files, backend, fresh.take, max_concurrent=max_concurrent, progress=progress))
    table = assemble_ledger(targets, cached, known, fresh)
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
