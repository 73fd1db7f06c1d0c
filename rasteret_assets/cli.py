"""The command line: ``rasteret-assets demo``, ``rasteret-assets discover`` and ``rasteret-assets failures``.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import click

if TYPE_CHECKING:
    from rich.console import Console

    from rasteret_assets.stages.ledger import Failures
    from rasteret_assets.storage.workspace import Workspace

# Dagster, matplotlib and the rest of the package take seconds to import: the commands import what they need
# themselves, so that --help and --version answer at once.
# ruff: noqa: PLC0415

P = ParamSpec("P")

_SHOWN_FAILURES = 20


def _in_one_line(command: Callable[P, None]) -> Callable[P, None]:
    """Errors that the package raises on purpose end a command with one line on stderr and exit code 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from rasteret_assets.errors import RasteretAssetsError

        try:
            command(*args, **kwargs)
        except RasteretAssetsError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(1)

    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rasteret-assets", prog_name="rasteret-assets")
def main() -> None:
    """Keep a Parquet index of cloud GeoTIFF headers right."""


@main.command()
@click.argument("directory", default="./rasteret_demo", type=click.Path(path_type=Path, file_okay=False))
@click.option("--force", is_flag=True, help="Write all files and read all headers again.")
@click.option("--serve", is_flag=True, help="Keep serving the files when all is done, until Ctrl+C.")
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port of the file server.  [default: that of the last run, else 8745]"
)
@_in_one_line
def demo(directory: Path, *, force: bool, serve: bool, port: int | None) -> None:
    """Make a small collection from nothing in DIRECTORY, and show how to open it.

    Writes twelve scenes of a made-up island as COGs (45 MB), serves them on this machine, materializes the Dagster
    graph over them, reads one area through the published collection and draws a picture. Run again, it fetches
    nothing.
    """
    from rasteret_assets.demo.run import run_demo

    run_demo(directory, force=force, port=port, serve=serve)


@main.command()
@click.option(
    "--collections",
    "folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of the YAML files with collections.  [default: $RASTERET_ASSETS_COLLECTIONS, else ./collections]",
)
@_in_one_line
def discover(folder: Path | None) -> None:
    """Register the partitions of all declared collections on the Dagster instance of DAGSTER_HOME."""
    import dagster as dg

    from rasteret_assets.orchestration.build import COLLECTIONS_VARIABLE, read_specs
    from rasteret_assets.orchestration.partitions import discover_partitions
    from rasteret_assets.orchestration.resources import FilesystemResource
    from rasteret_assets.stages.look import load_profile

    if not os.environ.get("DAGSTER_HOME"):
        raise click.UsageError("DAGSTER_HOME is not set: it names the folder of the Dagster instance")
    folder = folder or Path(os.environ.get(COLLECTIONS_VARIABLE) or "collections")
    if not folder.is_dir():
        raise click.UsageError(f"{folder} is no folder: name the one that declares the collections with --collections")
    filesystem = FilesystemResource()
    with dg.DagsterInstance.get() as instance:
        for spec in read_specs(folder):
            workspace = filesystem.open_workspace(spec)
            profile = load_profile(workspace, filesystem.open_source(spec), spec)
            keys = discover_partitions(instance, spec, profile, workspace.states())
            shown = [keys[0], "...", keys[-1]] if len(keys) > 3 else keys
            click.echo(f"{spec.name}: {len(keys)} partitions ({', '.join(shown)})")


@main.command()
@click.argument("path")
@click.option("--class", "error_class", metavar="CLASS", help="Only failures of this class, such as not_found.")
@click.option("--host", metavar="HOST", help="Only files of this host, as the table names it.")
@click.option(
    "--limit", type=click.IntRange(0), help=f"Failures to list.  [default: {_SHOWN_FAILURES}; with --json all of them]"
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document: {summary: [...], failures: [...]}.")
@click.option("--strict", is_flag=True, help="Exit with 1 where there are failures.")
@_in_one_line
def failures(
    path: str, *, error_class: str | None, host: str | None, limit: int | None, as_json: bool, strict: bool
) -> None:
    """Say which headers of a collection could not be read, why, and what to do.

    PATH is the folder or URI a collection is published in (..._records), or the YAML file that declares it.
    """
    from rasteret_assets.stages.ledger import read_failures

    found = read_failures(_workspace(path)).select(error_class=error_class, host=host)
    if as_json:
        rows = found.table if limit is None else found.table.slice(0, limit)
        document = {"summary": found.summary().to_pylist(), "failures": rows.to_pylist()}
        click.echo(json.dumps(document, indent=1, default=datetime.isoformat))
    else:
        narrowed = error_class is not None or host is not None
        _print_failures(found, _SHOWN_FAILURES if limit is None else limit, narrowed=narrowed)
    if strict and found.table.num_rows:
        sys.exit(1)


def _workspace(path: str) -> Workspace:
    """The workspace of a published collection or of a declaration."""
    from rasteret_assets.storage.workspace import Workspace

    if not path.lower().endswith((".yaml", ".yml")):
        return Workspace.at(path)
    # Only a declaration takes Dagster, which is most of the time this command needs.
    from rasteret_assets.orchestration.build import read_spec
    from rasteret_assets.orchestration.resources import FilesystemResource

    return FilesystemResource().open_workspace(read_spec(path))


def _print_failures(found: Failures, limit: int, *, narrowed: bool) -> None:
    """The report for people: counts by class and host, what helps, and the first failures by name."""
    from rich.console import Console
    from rich.text import Text

    # A terminal wraps; in a file or a pipe a row stays a line, so that grep and cut work.
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 1000)
    count = found.table.num_rows
    if not count:
        console.print(Text(f"No failures{' of this kind' if narrowed else ''} among {found.headers} headers."))
        return
    console.print(Text(f"{count} of {found.headers} headers could not be read."), style="bold")
    _print_summary(console, found)
    shown = found.table.slice(0, limit).to_pylist()
    for row in shown:
        place = f"{row['partition']}  {row['id']}  {row['band']}  {row['error_class']}: "
        address = f"{row['href']}: " if row["href"] and row["href"] not in row["error"] else ""
        console.print(Text(_printable(place + address + row["error"])))
    if len(shown) < count:
        console.print(Text(f"... and {count - len(shown)} more: --limit shows more of them, --json all"), style="dim")


def _print_summary(console: Console, found: Failures) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    summary = found.summary().to_pylist()
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("class", no_wrap=True)
    table.add_column("host", overflow="fold")
    for name in ("headers", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("next run", no_wrap=True)
    for row in summary:
        table.add_row(
            row["error_class"], Text(_printable(row["host"] or "-")), str(row["count"]), f"{row['share']:.2%}",
            "tries again" if row["retried"] else "keeps",
        )  # fmt: skip
    console.print(table)
    for error_class, remedy in {row["error_class"]: row["remedy"] for row in summary}.items():
        console.print(Text.assemble((f"{error_class}: ", "bold"), remedy))
    if not all(row["retried"] for row in summary):
        console.print("What the next run keeps is read again once its href changes, or with force.", style="dim")
    console.print()


def _printable(text: str) -> str:
    """Text of strangers without what a terminal would obey: escape sequences, line ends."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


if __name__ == "__main__":
    main()
