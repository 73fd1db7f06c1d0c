"""``rasteret-assets failures``: which headers could not be read, why, and what to do."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rasteret_assets.cli import library
from rasteret_assets.cli.common import (
    console_of_stdout,
    exit_code_option,
    in_one_line,
    json_option,
    print_json,
    printable,
)
from rasteret_assets.cli.location import Location, located
from rasteret_assets.message_lists import count_of

if TYPE_CHECKING:
    from rasteret_assets.headers.failures import Failures

_SHOWN_FAILURES = 20


@click.command()
@click.argument("collection")
@located
@click.option("--class", "error_class", metavar="CLASS", help="Only failures of this class, such as not_found.")
@click.option("--host", metavar="HOST", help="Only files of this host, as the table names it.")
@click.option(
    "--limit", type=click.IntRange(0), help=f"Failures to list at most.  [default: {_SHOWN_FAILURES}; with --json all]"
)
@exit_code_option("headers are missing")
@json_option
@in_one_line
def failures(
    collection: str, *, location: Location, error_class: str | None, host: str | None, limit: int | None,
    exit_code: bool, as_json: bool,
) -> None:  # fmt: skip
    """List the headers that are missing, and what helps.

    Also lists the headers that are in another CRS than their record says. COLLECTION is the folder or URI a collection
    is published in (..._records), or the YAML file or name of a declared one.
    """
    if error_class is not None and error_class not in library.REMEDIES:
        raise click.UsageError(f"{error_class} is not a class of failures; write one of {', '.join(library.REMEDIES)}")
    workspace = location.workspace_at(location.published(collection))
    found = library.read_failures(workspace).select(error_class=error_class, host=host)
    if as_json:
        rows = found.table if limit is None else found.table.slice(0, limit)
        print_json({"summary": found.summary().to_pylist(), "failures": rows.to_pylist()})
    else:
        narrowed = error_class is not None or host is not None
        _print_failures(found, _SHOWN_FAILURES if limit is None else limit, narrowed=narrowed)
    if exit_code and found.missing:
        sys.exit(1)


def _print_failures(found: Failures, limit: int, *, narrowed: bool) -> None:
    """Print counts of failures by class and host, what helps, and the first failures one by one."""
    console = console_of_stdout()
    count, headers = found.table.num_rows, count_of(found.headers, "header")
    if not count:
        console.print(Text(f"No failures{' of this kind' if narrowed else ''} among {headers}."))
        return
    conflicts = count - found.missing
    differ = "is in another CRS than its" if conflicts == 1 else "are in another CRS than their"
    also = f" {conflicts} {differ} record says." if conflicts else ""
    console.print(Text(f"{found.missing} of {headers} could not be read.{also}"), style="bold")
    _print_summary(console, found)
    shown = found.table.slice(0, limit).to_pylist()
    for row in shown:
        place = f"{row['partition']}  {row['id']}  {row['band']}  {row['error_class']}: "
        address = f"{row['href']}: " if row["href"] and row["href"] not in row["error"] else ""
        until = f" (asked for until {row['retry_until']:%Y-%m-%d %H:%M} UTC)" if row["retry_until"] else ""
        console.print(Text(printable(place + address + row["error"] + until)))
    if len(shown) < count:
        console.print(Text(f"... and {count - len(shown)} more: --limit shows more of them, --json all"), style="dim")


def _next_run(row: Mapping[str, Any]) -> str:
    """Return what the next build does about the failures in a row of the summary."""
    if not row["retried"]:
        return "keeps"
    some = f" {row['retried']}" if row["retried"] < row["count"] else ""
    until = row["retry_until"]
    return f"tries{some} again" + (f" until {until:%Y-%m-%d %H:%M} UTC" if until is not None else "")


def _print_summary(console: Console, found: Failures) -> None:
    summary = found.summary().to_pylist()
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("class", no_wrap=True)
    table.add_column("host", overflow="fold")
    for name in ("headers", "share"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("next run", no_wrap=True)
    for row in summary:
        table.add_row(
            row["error_class"], Text(printable(row["host"] or "-")), str(row["count"]), f"{row['share']:.2%}",
            _next_run(row),
        )  # fmt: skip
    console.print(table)
    for error_class, remedy in {row["error_class"]: row["remedy"] for row in summary}.items():
        console.print(Text.assemble((f"{error_class}: ", "bold"), remedy))
    if any(row["retried"] < row["count"] for row in summary):
        console.print(
            "Headers that the next run keeps as missing are asked for again once their href changes, or with --force.",
            style="dim",
        )
    console.print()
