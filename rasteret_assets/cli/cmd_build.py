"""``rasteret-assets build``: collections brought up to date, or what a build would do.

Where DAGSTER_HOME is set, a build goes through the graph of that instance, in this process, so that the UI shows it;
otherwise the library builds. Both touch the same partitions and publish the same bytes.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from rasteret_assets.cli import library
from rasteret_assets.cli.cmd_harvest import harvest_collections
from rasteret_assets.cli.common import (
    dagster_instance,
    exit_code_option,
    force_option,
    in_one_line,
    json_option,
    partition_option,
    print_json,
    printable,
)
from rasteret_assets.cli.location import Location, located
from rasteret_assets.message_lists import count_of

if TYPE_CHECKING:
    from rasteret_assets.spec import CollectionSpec

_COUNTS = ("records", "headers_fetched", "headers_reused", "headers_failed", "requests", "request_bytes")


@click.command()
@click.argument("collections", nargs=-1, metavar="[COLLECTION]...")
@located
@partition_option
@force_option
@click.option(
    "--revalidate",
    is_flag=True,
    help="Ask hosts whether files have changed since their headers were read, and read changed headers again.",
)
@click.option(
    "--no-harvest",
    is_flag=True,
    help="Build from the STAC items that were harvested before, instead of harvesting first.",
)
@click.option(
    "--dry-run", is_flag=True,
    help="Only say what a build would do: which partitions and why, how many headers. Asks no host, publishes nothing.",
)  # fmt: skip
@exit_code_option("headers are missing or, in a dry run, where a partition is to be built")
@json_option
@in_one_line
def build(
    collections: tuple[str, ...], *, location: Location, partitions: tuple[str, ...], force: bool, revalidate: bool,
    no_harvest: bool, dry_run: bool, exit_code: bool, as_json: bool,
) -> None:  # fmt: skip
    """Bring collections up to date, touching only what changed.

    A COLLECTION is a YAML file or the name of a declared collection; without one, all declared collections are built.
    Where DAGSTER_HOME is set, its instance records the build. Collections of STAC items are harvested first.
    """
    specs = location.specs(collections)
    if not (no_harvest or dry_run):
        harvest_collections(specs, location, quiet=as_json)
    asked = _asked(specs, partitions, location)
    found = (_plan if dry_run else _build)(
        specs, asked, location, {"force": force, "revalidate": revalidate}, as_json=as_json
    )
    if exit_code and found:
        sys.exit(1)


def _plan(
    specs: Sequence[CollectionSpec],
    asked: dict[str, list[str]],
    location: Location,
    options: dict[str, Any],
    *,
    as_json: bool,
) -> bool:
    """Print what a build would do; return whether a partition is to be built."""
    documents, partitions = [], 0
    for spec in specs:
        found = library.plan(
            spec, filesystem=location.filesystem_of, partitions=asked.get(spec.name),
            workspace_filesystem=location.filesystem_of(str(spec.published_path)), **options,
        )  # fmt: skip
        partitions += len(found.partitions)
        if as_json:
            rows = found.to_table().to_pylist()
            documents.append(
                {"collection": spec.name, "partitions": rows, "current": list(found.current), "totals": found.totals}
            )
        else:
            click.echo(f"{spec.name}: {found}" if not found.partitions else f"{spec.name}\n{found}")
    if as_json:
        print_json(documents)
    return bool(partitions)


def _build(
    specs: Sequence[CollectionSpec],
    asked: dict[str, list[str]],
    location: Location,
    options: dict[str, bool],
    *,
    as_json: bool,
) -> bool:
    """Build collections and print what was done; return whether a header is missing."""
    documents = []
    with _interruptible(), dagster_instance() as instance:
        for spec in specs:
            build_one = _by_library if instance is None else instance.build
            done = build_one(spec, location, partitions=asked.get(spec.name), **options)
            documents.append({"collection": spec.name, "path": spec.published_path, **done})
            if not as_json:
                _tell(documents[-1])
    if as_json:
        print_json(documents)
    # Of all partitions, because headers that an earlier build could not read are missing too.
    return any(location.workspace_of(spec).failures() for spec in specs)


@contextmanager
def _interruptible() -> Iterator[None]:
    """End an interrupted command with exit code 130, as shells do, and say that fetched headers are kept."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("Interrupted. Headers that were fetched are kept: the same command goes on from there.", err=True)
        sys.exit(130)


def _asked(specs: Sequence[CollectionSpec], partitions: Sequence[str], location: Location) -> dict[str, list[str]]:
    """Return the partitions to build, by collection; of several collections, each builds those that it has.

    Raises:
        UsageError: if none of several collections has a partition. (With one collection, the build refuses.)
    """
    if not partitions:
        return {}
    if len(specs) == 1:
        return {specs[0].name: list(partitions)}
    there = {}
    for spec in specs:
        workspace = location.workspace_of(spec)
        profile = library.load_profile(workspace, location.source_of(spec, workspace), spec)
        there[spec.name] = {*profile.partitions, *workspace.states()}
    if unknown := [key for key in partitions if not any(key in keys for keys in there.values())]:
        raise click.UsageError(f"no collection has a partition {', '.join(unknown)}")
    return {name: [key for key in partitions if key in keys] for name, keys in there.items()}


def _by_library(spec: CollectionSpec, location: Location, **options: Any) -> dict[str, Any]:
    report = library.build(
        spec, filesystem=location.filesystem_of, backend=location.backend_of(spec),
        workspace_filesystem=location.filesystem_of(str(spec.published_path)), **options,
    )  # fmt: skip
    totals = {name: report.totals.get(name, 0) for name in _COUNTS}
    return {"partitions": report.reasons, "totals": totals, "query_parameters": report.query_parameters}


def _tell(document: dict[str, Any]) -> None:
    partitions, totals = document["partitions"], document["totals"]
    if not partitions:
        click.echo(f"{document['collection']}: nothing to do, all partitions match the record table")
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(Counter(partitions.values()).items()))
    click.echo(
        f"{document['collection']}: {count_of(len(partitions), 'partition')} ({reasons}), "
        f"{count_of(totals['records'], 'record')}; {count_of(totals['headers_fetched'], 'header')} fetched, "
        f"{totals['headers_reused']} reused, {totals['headers_failed']} failed, "
        f"{count_of(totals['requests'], 'request')}"
    )
    for name, what in (("kept", "kept in"), ("taken_out", "taken out of")):
        if names := document.get("query_parameters", {}).get(name):
            click.echo(printable(f"query parameters {what} published addresses: {', '.join(names)}"))
    click.echo(f"published in {document['path']}")
