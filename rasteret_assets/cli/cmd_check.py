"""``rasteret-assets check``: the checks of published collections, without Dagster."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from rasteret_assets.cli import library
from rasteret_assets.cli.common import (
    exit_code_option,
    in_one_line,
    json_option,
    partition_option,
    print_json,
    print_table,
    printable,
)
from rasteret_assets.cli.location import Location, located
from rasteret_assets.message_lists import count_of

if TYPE_CHECKING:
    from rasteret_assets.checks import Finding


@click.command()
@click.argument("collections", nargs=-1, metavar="[COLLECTION]...")
@located
@partition_option
@click.option("--list", "as_list", is_flag=True, help="List the checks instead of running them.")
@exit_code_option("a check finds an error (a warning is not an error)")
@json_option
@in_one_line
def check(
    collections: tuple[str, ...], *, location: Location, partitions: tuple[str, ...], as_list: bool, exit_code: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Check published collections.

    Runs the checks that Dagster runs, on all published partitions; checks that do not pass are listed. A COLLECTION is
    a YAML file or the name of a declared collection; without one, all declared collections are meant. Checks of your
    own run too where a code location that imports them is named (-f or -m).
    """
    if as_list:
        _list_checks(location, as_json=as_json)
        return
    rows: list[dict[str, Any]] = []
    specs = location.specs(collections)
    workspaces = [location.workspace_of(spec) for spec in specs]
    published = [list(workspace.states()) for workspace in workspaces]
    if unknown := sorted(set(partitions).difference(*published)):
        names = ", ".join(spec.name for spec in specs)
        raise click.UsageError(f"{names}: no published partition {', '.join(unknown)}")
    for spec, workspace, keys in zip(specs, workspaces, published, strict=True):
        rows += [
            {"collection": spec.name, "partition": key, "verdict": finding.verdict, **_document(finding)}
            for key in keys
            if not partitions or key in partitions
            for finding in library.check_partition(workspace, spec, key)
        ]
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in ("ok", "warning", "error")}
    if as_json:
        print_json({"counts": counts, "checks": rows})
    else:
        for row in rows:
            if row["verdict"] != "ok":
                place = f"{row['verdict']}: {row['collection']} {row['partition']} {row['check']}: "
                click.echo(printable(place + row["message"]))
        partitions_seen = len({(row["collection"], row["partition"]) for row in rows})
        click.echo(
            f"{count_of(len(rows), 'check')} of {count_of(partitions_seen, 'partition')}: {counts['ok']} passed, "
            f"{count_of(counts['warning'], 'warning')}, {count_of(counts['error'], 'error')}"
        )
    if exit_code and counts["error"]:
        sys.exit(1)


def _list_checks(location: Location, *, as_json: bool) -> None:
    """Print what every check says, those of the code location too."""
    _ = location.code  # importing the code location declares its checks
    rows = [
        (check.stage, check.name, check.blocking, check.description) for check in library.checks_of(*library.CHECKED)
    ]
    if as_json:
        print_json([dict(zip(("table", "check", "blocks", "description"), row, strict=True)) for row in rows])
    else:
        titles = ("table", "check", "an error blocks", "what must be true")
        print_table(titles, [(stage, name, "yes" if blocks else "no", said) for stage, name, blocks, said in rows])


def _document(finding: Finding) -> dict[str, Any]:
    return {
        "check": finding.check,
        "message": finding.message,
        "numbers": dict(finding.numbers),
        "rows": [dict(row) for row in finding.rows],
    }
