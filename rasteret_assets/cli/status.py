"""``rasteret-assets status`` and ``discover``: how collections stand, and which partitions Dagster knows."""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

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

if TYPE_CHECKING:
    import dagster as dg

    from rasteret_assets.spec import CollectionSpec
    from rasteret_assets.storage.workspace import Workspace

# ruff: noqa: PLC0415  (see common.py)


@click.command()
@click.argument("collections", nargs=-1, metavar="[COLLECTION]...")
@located
@exit_code_option("a partition is to be built")
@json_option
@in_one_line
def status(collections: tuple[str, ...], *, location: Location, exit_code: bool, as_json: bool) -> None:
    """Say how collections stand.

    What is published, what differs from the record table, and how many headers are missing.
    A COLLECTION is a YAML file or the name of a declared collection; all that are declared when omitted. What a build
    would do about it says rasteret-assets build --dry-run.
    """
    with dagster_instance() as instance:
        documents = [_status(spec, location, instance) for spec in location.specs(collections)]
    if as_json:
        print_json(documents)
    else:
        _print(documents)
    if exit_code and any(document["stale"] for document in documents):
        sys.exit(1)


@click.command()
@click.argument("collections", nargs=-1, metavar="[COLLECTION]...")
@located
@json_option
@in_one_line
def discover(collections: tuple[str, ...], *, location: Location, as_json: bool) -> None:
    """Register partitions on the Dagster instance.

    It is the instance of DAGSTER_HOME. A COLLECTION is a YAML file or the name of a declared collection; all that are
    declared when omitted.
    """
    if not os.environ.get("DAGSTER_HOME"):
        raise click.UsageError("DAGSTER_HOME is not set: it names the folder of the Dagster instance")
    specs = location.specs(collections)
    from rasteret_assets.orchestration.graph_partitions import discover_partitions
    from rasteret_assets.source.stored import load_profile

    found = {}
    with dagster_instance() as instance:
        if instance is None:
            return
        for spec in specs:
            workspace = location.workspace_of(spec)
            profile = load_profile(workspace, location.source_of(spec, workspace), spec)
            keys = discover_partitions(instance, spec, profile, workspace.states())
            found[spec.name] = keys
            if not as_json:
                shown = [keys[0], "...", keys[-1]] if len(keys) > 3 else keys
                click.echo(f"{spec.name}: {len(keys)} partitions ({', '.join(shown)})")
    if as_json:
        print_json(found)


def _status(spec: CollectionSpec, location: Location, instance: dg.DagsterInstance | None) -> dict[str, Any]:
    from rasteret_assets.errors import NotHarvestedError
    from rasteret_assets.pipeline.plan import stale_partitions
    from rasteret_assets.source.stored import load_profile
    from rasteret_assets.storage.workspace.commit import verified_states

    workspace = location.workspace_of(spec)
    states = verified_states(workspace)
    try:
        profile = load_profile(workspace, location.source_of(spec, workspace), spec)
        stale = stale_partitions(states, profile, spec)
    except NotHarvestedError:
        stale = {}
    return {
        "collection": spec.name,
        "path": spec.published_path,
        "partitions": len(states),
        "records": sum(int(state.get("rows", 0)) for state in states.values()),
        "stale": stale,
        "failures": workspace.failures(states),
        "last_run": None if instance is None else _last_run(spec, instance),
        **({} if spec.harvest is None else {"harvest": _harvest_of(workspace)}),
    }


def _harvest_of(workspace: Workspace) -> dict[str, Any]:
    """Return what was harvested of a collection, and until when."""
    from rasteret_assets.harvesting.ledger import read_ledger

    ledger = read_ledger(workspace)
    return {
        "harvested": ledger.harvested,
        "windows": len(ledger.windows),
        "items": ledger.items,
        "newest_window": max((key for key, state in ledger.windows.items() if state.items), default=None),
        "newest_item": ledger.newest,
        "failed": {key: state.failed for key, state in ledger.windows.items() if state.failed},
    }


def _last_run(spec: CollectionSpec, instance: dg.DagsterInstance) -> str | None:
    """Return status and end of the collection's last run on an instance."""
    import dagster as dg

    from rasteret_assets.orchestration.jobs import COLLECTION_TAG

    records = instance.get_run_records(dg.RunsFilter(tags={COLLECTION_TAG: spec.name}), limit=1)
    if not records:
        return None
    return f"{records[0].dagster_run.status.value.lower()} {records[0].update_timestamp:%Y-%m-%d %H:%M}"


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
    text = f"harvested {found['harvested'][:16].replace('T', ' ')}: {found['items']} items, the newest of "
    text += f"{found['newest_item'] or '-'} in window {found['newest_window'] or '-'}"
    return text if not found["failed"] else f"{text}; failed windows: {', '.join(sorted(found['failed']))}"
