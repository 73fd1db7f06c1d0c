"""The demo from beginning to end: files, server, graph, picture, report."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rasteret_assets.collection import load
from rasteret_assets.demo import graph
from rasteret_assets.demo.area import AreaRead, read_area
from rasteret_assets.demo.folder import DemoFolder
from rasteret_assets.demo.picture import draw
from rasteret_assets.demo.records import move_records, write_records
from rasteret_assets.demo.report import Report
from rasteret_assets.demo.scenes import write_scenes
from rasteret_assets.demo.server import DEFAULT_PORT, HOST, FileServer, PortBusyError, serving

#: How many ports after the usual one are tried where that is taken.
_OTHER_PORTS = 20


def run_demo(root: Path, *, force: bool, port: int | None, serve: bool) -> None:
    """Make the demo in ``root``, or bring the one that is there up to date.

    Args:
        root: folder of the demo; created where it is missing.
        force: write all files and read all headers again.
        port: where files are served; the last one, or a free one, when omitted.
        serve: keep serving when all is done.

    Raises:
        RasteretAssetsError: what stopped it.
    """
    report, folder = Report(), DemoFolder(root)
    folder.prepare(force=force)
    with _server(folder, port, report) as server:
        _write(folder, server, report)
        before = server.traffic()
        with report.progress("materializing partitions") as advance:
            done = graph.materialize(folder, force=force, done=advance)
        seen = server.traffic().since(before)
        failed = graph.failures(folder)
        report.partitions(done, seen)
        report.failures(failed, folder)
        changed = any(partition.fetched for partition in done)
        report.picture(folder, _picture(folder, failed) if changed or not folder.picture.exists() else None)
        report.how_to_open(folder)
        if serve:
            report.serving(server.url)
            with suppress(KeyboardInterrupt):  # how it is meant to end
                threading.Event().wait()


def _write(folder: DemoFolder, server: FileServer, report: Report) -> None:
    """Write what is missing; let the addresses of an older run follow the server."""
    complete, known = folder.is_complete(), folder.port
    if not complete:
        with report.progress("writing scenes") as advance:
            scenes = write_scenes(folder.files, advance)
        write_records(folder.records, scenes, server.url)
    elif known != server.port:
        move_records(folder.records, f"http://{HOST}:{known}", server.url)
    folder.complete(server.port)
    report.files(folder, written=not complete)


def _picture(folder: DemoFolder, failed: list[graph.Failure]) -> AreaRead:
    collection = load(folder.published, name="demo")
    read = read_area(collection)
    draw(collection, read, failed, folder.files, folder.picture)
    return read


@contextmanager
def _server(folder: DemoFolder, port: int | None, report: Report) -> Iterator[FileServer]:
    """The demo's server: on the port asked for, or else on the usual one or the next that is free."""
    usual = port or folder.port or DEFAULT_PORT
    tried = [usual] if port else range(usual, usual + _OTHER_PORTS)
    with ExitStack() as stack:
        for candidate in tried:
            try:
                server = stack.enter_context(serving(folder.files, candidate))
            except PortBusyError:
                if candidate == tried[-1]:
                    raise
            else:
                break
        if server.port != usual:
            report.moved(usual, server.port)
        yield server
