"""``rasteret-assets status``: what is published of collections, and what a build has to do."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from rasteret_assets.cli import library
from rasteret_assets.cli.common import (
    dagster_instance,
    exit_code_option,
    in_one_line,
    json_option,
    print_json,
    print_table,
    printable,
)
from rasteret_assets.cli.location import Location, located
from rasteret_assets.errors import NotHarvestedError
from rasteret_assets.message_lists import count_of

if TYPE_CHECKING:
    from rasteret_assets.cli.instance import Instance
    from rasteret_assets.spec import CollectionSpec
    from rasteret_assets.storage.workspace import Workspace


@click.command()
@click.argument("collections", nargs=-1, metavar="[COLLECTION]...")
@located
@exit_code_option("a partition is to be built")
@json_option
@in_one_line
def status(collections: tuple[str, ...], *, location: Location, exit_code: bool, as_json: bool) -> None:
    """Show what is published and what a build has to do.

    Counts the published partitions and records, the partitions that differ from the record table, and the headers that
    are missing. A COLLECTION is a YAML file or the name of a declared collection; without one, all declared collections
    are meant. build --dry-run lists the partitions and the number of headers to fetch.
    """
    with dagster_instance() as instance:
        documents = [_status(spec, location, instance) for spec in location.specs(collections)]
    if as_json:
        print_json(documents)
    else:
        _print(documents)
    if exit_code and any(document["stale"] for document in documents):
        sys.exit(1)


def _status(spec: CollectionSpec, location: Location, instance: Instance | None) -> dict[str, Any]:
    workspace = location.workspace_of(spec)
    states = library.verified_states(workspace)
    try:
        profile = library.load_profile(workspace, location.source_of(spec, workspace), spec)
        stale = library.stale_partitions(states, profile, spec)
    except NotHarvestedError:
        stale = {}
    return {
        "collection": spec.name,
        "path": spec.published_path,
        "partitions": len(states),
        "records": sum(int(state.get("rows", 0)) for state in states.values()),
        "stale": stale,
        "failures": workspace.failures(states),
        "last_run": None if instance is None else instance.last_run(spec),
        **({} if spec.harvest is None else {"harvest": _harvest_of(workspace)}),
    }


def _harvest_of(workspace: Workspace) -> dict[str, Any]:
    """Return counts of what was harvested of a collection, the time of the last harvest, and failed windows."""
    ledger = library.read_ledger(workspace)
    return {
        "harvested": ledger.harvested,
        "windows": len(ledger.windows),
        "items": ledger.items,
        "newest_window": max((key for key, state in ledger.windows.items() if state.items), default=None),
        "newest_item": ledger.newest,
        "failed": {key: state.failed for key, state in ledger.windows.items() if state.failed},
    }


def _print(documents: list[dict[str, Any]]) -> None:
    columns = ("collection", "published", "records", "to build", "missing headers", "last run")
    print_table(columns, [
        (
            document["collection"], document["partitions"], document["records"], len(document["stale"]),
            sum(document["failures"].values()), document["last_run"] or "-",
        )
        for document in documents
    ])  # fmt: skip
    for document in documents:
        if "harvest" in document:
            click.echo(printable(f"{document['collection']}: {_harvest_line(document['harvest'])}"))
        reasons = Counter(document["stale"].values())
        if reasons:
            text = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            click.echo(f"{document['collection']}: to build: {text}")


def _harvest_line(found: dict[str, Any]) -> str:
    if found["harvested"] is None:
        return "not harvested yet"
    text = f"harvested {found['harvested'][:16].replace('T', ' ')}: {count_of(found['items'], 'item')}, the newest of "
    text += f"{found['newest_item'] or '-'} in window {found['newest_window'] or '-'}"
    return text if not found["failed"] else f"{text}; failed windows: {', '.join(sorted(found['failed']))}"
