"""The demo's collection through the Dagster graph, in this process; the rest of the demo does not know Dagster."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from rasteret_assets.dagster import materialize_collection
from rasteret_assets.declare import read_spec
from rasteret_assets.demo.folder import DemoFolder
from rasteret_assets.demo.scenes import MONTHS
from rasteret_assets.schema import STATUS_OK


@dataclass(frozen=True, kw_only=True)
class PartitionReport:
    """What became of one partition.

    Args:
        key: of the partition.
        records: rows published.
        fetched: files whose header was fetched, readable or not.
        reused: headers taken from the last materialization.
        failed: headers that are not to be had.
        requests: range requests that the headers took.
    """

    key: str
    records: int
    fetched: int
    reused: int
    failed: int
    requests: int


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A header that could not be read, as the ledger has it."""

    id: str
    band: str
    error_class: str
    error: str


def materialize(folder: DemoFolder, *, force: bool, done: Callable[[int, int], None]) -> list[PartitionReport]:
    """Materialize every partition on the demo's own instance.

    Args:
        folder: of the demo.
        force: fetch every header again.
        done: called with the number of partitions done and to do.

    Raises:
        RasteretAssetsError: what stopped a run.
    """
    spec = read_spec(folder.declaration)
    reports: list[PartitionReport] = []
    done(0, MONTHS)

    def report(key: str, stages: dict[str, dict[str, Any]]) -> None:
        bands, published = stages.get("band_metadata", {}), stages.get("collection", {})
        reports.append(PartitionReport(
            key=key, records=published.get("rows", 0), fetched=bands.get("headers_fetched", 0),
            reused=bands.get("headers_reused", 0), failed=bands.get("headers_failed", 0),
            requests=bands.get("requests", 0),
        ))  # fmt: skip
        done(len(reports), MONTHS)

    with _terminable(), dg.DagsterInstance.from_config(str(folder.dagster_home)) as instance:
        materialize_collection(spec, instance, force=force, on_partition=report)
    return reports


def failures(folder: DemoFolder) -> list[Failure]:
    """What the ledger says about headers that could not be read."""
    ledger = ds.dataset(folder.ledger, format="parquet", exclude_invalid_files=True)
    names = ["id", "band", "error_class", "error"]
    failed: pa.Table = ledger.to_table(names, filter=pc.field("status") != STATUS_OK)
    return [Failure(**row) for row in failed.to_pylist()]


@contextmanager
def _terminable() -> Iterator[None]:
    """Give SIGTERM back the handler it had.

    A run in this process leaves it with that of SIGINT, which a shell's background jobs ignore: such a demo that serves
    could not be ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Dagster leaves signals alone there as well
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
