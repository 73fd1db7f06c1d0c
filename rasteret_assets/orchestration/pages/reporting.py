"""Report errors as one sentence, tables as metadata and progress as log lines, alike in all assets and checks."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg

from rasteret_assets.errors import EnrichmentError, RangeReadError, RasteretAssetsError, SourceError
from rasteret_assets.headers.outcomes import HeaderProgress

PROGRESS_INTERVAL_S = 5.0


@contextmanager
def explained() -> Iterator[None]:
    """Raise errors of this package as ``dagster.Failure`` with their message; only errors that may pass are retried."""
    try:
        yield
    except RasteretAssetsError as error:
        raise dg.Failure(description=str(error), allow_retries=is_passing(error)) from error


def is_passing(error: RasteretAssetsError) -> bool:
    """Tell whether an error is of a kind that may pass, so that another try can succeed."""
    return isinstance(error, EnrichmentError | RangeReadError | SourceError)


def table_metadata(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue:
    """Return rows of numbers and texts as table metadata; columns and their types are those of the first row."""
    types = {int: "int", float: "float", bool: "bool"}
    columns = [dg.TableColumn(name, types.get(type(value), "string")) for name, value in rows[0].items()]
    return dg.MetadataValue.table([dg.TableRecord(dict(row)) for row in rows], schema=dg.TableSchema(columns=columns))


def logged_progress(context: dg.AssetExecutionContext, key: str) -> Callable[[HeaderProgress], None]:
    """Return a progress callback that writes a line to the run's log, at most every ``PROGRESS_INTERVAL_S`` seconds."""
    last = time.monotonic()

    def report(progress: HeaderProgress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_INTERVAL_S:
            last = now
            rate = progress.done / max(progress.seconds, 1e-3)
            left = f", about {(progress.total - progress.done) / rate:.0f} s left" if rate else ""
            line = (
                f"{key}: {progress.done} of {progress.total} headers, {rate:.0f}/s, {progress.failed} failed, "
                f"{progress.concurrency} in flight{left}"
            )
            context.log.info(line)

    return report
