"""The demo from beginning to end: files, server, build, picture. Results go to stdout, progress to stderr."""

from __future__ import annotations

import signal
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import click
import dagster as dg
import pyarrow.parquet as pq

from rasteret_assets.collection import load
from rasteret_assets.dagster import materialize_collection
from rasteret_assets.declare import read_spec
from rasteret_assets.demo._snippets import all_snippets, shown
from rasteret_assets.demo.folder import DemoFolder
from rasteret_assets.demo.poster import MONTHS, draw_poster
from rasteret_assets.demo.scenes import SCENES, write_records, write_scenes
from rasteret_assets.demo.server import DEFAULT_PORT, FileServer, serving
from rasteret_assets.headers.failures import read_failures
from rasteret_assets.orchestration.materialize import StageCounts
from rasteret_assets.storage.whole_files import naming_target
from rasteret_assets.storage.workspace import Workspace

#: How many ports are tried where none is asked for.
_TRIED_PORTS: Final = 20

#: Counts of a partition that are printed, by stage.
_COUNTS: Final = (
    ("collection", "rows"), ("band_metadata", "headers_fetched"), ("band_metadata", "headers_reused"),
    ("band_metadata", "headers_failed"), ("band_metadata", "requests"),
)  # fmt: skip


def run_demo(root: Path, *, force: bool, port: int | None, serve: bool) -> None:
    """Make the demo in ``root``, or bring the one that is there up to date.

    Args:
        root: folder of the demo; created where it does not exist.
        force: write all files and fetch all headers again.
        port: where files are served; the last one, or a free one, when None.
        serve: keep serving at the end.

    Raises:
        RasteretAssetsError: what stopped the demo.
    """
    folder = DemoFolder(root)
    with naming_target(root, "name a folder that may be written to: rasteret-assets demo FOLDER"):
        folder.prepare(force=force)
    usual = port or folder.port or DEFAULT_PORT
    with serving(folder.files, usual, tries=1 if port else _TRIED_PORTS) as server:
        if server.port != usual:
            click.echo(f"port {usual} is in use by another program: the files are served on {server.port}", err=True)
        _write(folder, server)
        before = server.traffic()
        counts = _build(folder, force=force)
        fetched = _tell_counts(counts, server.traffic() - before)
        failures = read_failures(Workspace.at(str(folder.published))).table.to_pylist()
        click.secho(f"\nHeaders that could not be read: {len(failures)}", bold=True)
        for row in failures:
            click.echo(f"  {row['id']} {row['band']}: {row['error_class']}, {row['error']}")
        click.echo(f"\ncollection  {shown(folder.published)}\npicture     {shown(folder.picture)}")
        if fetched or not folder.picture.exists():
            read = draw_poster(load(folder.published, name="demo"), folder.files, failures, server, folder.picture)
            click.echo(f"            {len(MONTHS)} scenes of one area, read from the index: {read}")
        for title, code in all_snippets(folder).items():
            click.secho(f"\n{title}\n", bold=True)
            click.echo(code)
        if serve and not server.is_own:
            click.echo(f"\nanother run of the demo serves the files at {server.url} until that run ends", err=True)
        elif serve:
            click.echo(f"\nserving the files at {server.url} until Ctrl+C", err=True)
            # Because a Dagster run leaves SIGTERM with the handler of SIGINT, which a shell's background jobs ignore.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            with suppress(KeyboardInterrupt):  # the usual way to end it
                threading.Event().wait()


def _write(folder: DemoFolder, server: FileServer) -> None:
    """Write what is missing; let the addresses of an earlier run follow the server."""
    complete = folder.is_complete()
    if not complete:
        with click.progressbar(length=SCENES, label="writing scenes", file=sys.stderr) as bar:
            rows = write_scenes(folder.files, lambda: bar.update(1))
        write_records(folder.records, rows, server.url)
    elif folder.port != server.port:
        write_records(folder.records, pq.read_table(folder.records).to_pylist(), server.url)
    folder.complete(server.port)
    cogs = list(folder.files.glob("*/*.tif"))
    size = sum(path.stat().st_size for path in cogs) / 1e6
    done = "unchanged" if complete else "written"
    click.echo(
        f"files       {SCENES} scenes, {len(cogs)} COGs, {size:.0f} MB, {done}\n            {shown(folder.files)}"
    )


def _build(folder: DemoFolder, *, force: bool) -> dict[str, StageCounts]:
    """Materialize all partitions on the demo's own instance, and return counts by partition and stage."""
    with (
        dg.DagsterInstance.from_config(str(folder.dagster_home)) as instance,
        click.progressbar(length=len(MONTHS), label="materializing partitions", file=sys.stderr) as bar,
    ):
        spec = read_spec(folder.declaration)
        return materialize_collection(spec, instance, force=force, on_partition=lambda *_: bar.update(1))


def _tell_counts(counts: Mapping[str, StageCounts], seen: Counter[str]) -> int:
    """Print what building did, by partition and in all; return how many headers were fetched."""
    click.secho("\npartition  records  headers fetched  reused  unreadable  requests", bold=True)
    rows = [[stages.get(stage, {}).get(name, 0) for stage, name in _COUNTS] for stages in counts.values()]
    for key, (records, *headers) in zip(counts, rows, strict=True):
        click.echo(f"{key:9}  {records:7}  {headers[0]:15}  {headers[1]:6}  {headers[2]:10}  {headers[3]:8}")
    _, fetched, reused, *_ = (sum(column) for column in zip(*rows, strict=True))
    saw = f"the server saw {seen['requests']} requests"
    if fetched:
        click.echo(f"\n{fetched} files were asked for their header: {saw}, {seen['bytes'] / 1e3:.0f} kB.")
    else:
        click.secho(f"\nNothing had to be fetched: the headers of all {reused} files are stored; {saw}.", fg="green")
    return int(fetched)
