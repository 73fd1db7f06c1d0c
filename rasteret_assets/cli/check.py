"""``rasteret-assets check``: is what is published right?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from rasteret_assets.cli.common import (
    collections_option,
    declared,
    in_one_line,
    json_option,
    partition_option,
    print_json,
    printable,
    workspace_of,
)

# ruff: noqa: PLC0415  (see common.py)


@click.command()
@click.argument("collections", nargs=-1)
@collections_option
@partition_option
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too.")
@json_option
@in_one_line
def check(
    collections: tuple[str, ...], *, folder: Path | None, partitions: tuple[str, ...], strict: bool, as_json: bool
) -> None:
    """Check what is published: the same checks as in Dagster, over all partitions.

    COLLECTIONS are YAML files or names of declared collections; all that are declared when omitted. Exits with 1 where
    a check finds an error.
    """
    from rasteret_assets.checks import check_partition

    rows: list[dict[str, Any]] = []
    for spec in declared(collections, folder):
        workspace = workspace_of(spec)
        published = list(workspace.states())
        if unknown := sorted(set(partitions) - set(published)):
            raise click.UsageError(f"{spec.name} has no published partition {', '.join(unknown)}")
        rows += [
            {"collection": spec.name, "partition": key, "verdict": finding.verdict, **_document(finding)}
            for key in partitions or published
            for finding in check_partition(workspace, spec, key)
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
            f"{len(rows)} checks of {partitions_seen} partitions: {counts['ok']} passed, {counts['warning']} warnings, "
            f"{counts['error']} errors"
        )
    if counts["error"] or (strict and counts["warning"]):
        sys.exit(1)


def _document(finding: Any) -> dict[str, Any]:
    return {
        "check": finding.check,
        "message": finding.message,
        "numbers": dict(finding.numbers),
        "rows": [dict(row) for row in finding.rows],
    }
