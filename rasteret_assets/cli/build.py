"""``rasteret-assets build``: collections brought up to date, or what that would take.

Where DAGSTER_HOME is set a build goes through the graph of that instance, in this process, so that the UI shows it;
otherwise the library builds. Both touch the same partitions and publish the same bytes.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

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
from rasteret_assets.cli.harvest import harvest_collections
from rasteret_assets.cli.location import Location, located

if TYPE_CHECKING:
    import dagster as dg

    from rasteret_assets.spec import CollectionSpec

# ruff: noqa: PLC0415  (see common.py)

_COUNTS = ("records", "headers_fetched", "headers_reused", "headers_failed", "requests", "request_bytes")


@click.command()
@click.argument("collections", nargs=-1, metavar="[COLLECTION]...")
@located
@partition_option
@force_option
@click.option(
    "--revalidate", is_flag=True, help="Ask whether the files of known headers have changed, and read those that have."
)
@click.option(
    "--no-harvest", is_flag=True, help="Build from what was harvested before; otherwise STAC items are harvested first."
)
@click.option(
    "--dry-run", is_flag=True,
    help="Only say what a build would do: partitions and why, headers to fetch. Asks no host and publishes nothing.",
)  # fmt: skip
@exit_code_option("headers are missing; with --dry-run, where a partition is to be built")
@json_option
@in_one_line
def build(
    collections: tuple[str, ...], *, location: Location, partitions: tuple[str, ...], force: bool, revalidate: bool,
    no_harvest: bool, dry_run: bool, exit_code: bool, as_json: bool,
) -> None:  # fmt: skip
    """Bring collections up to date, touching only what changed.

    A COLLECTION is a YAML file or the name of a declared collection; all that are declared when omitted. Where
    DAGSTER_HOME is set the build is recorded on that instance. Collections of STAC items are harvested first.
    """
    specs = location.specs(collections)
    if not (no_harvest or dry_run):
        harvest_collections(specs, location, quiet=as_json)
    asked = _asked(specs, partitions, location)
    options: dict[str, Any] = {"force": force, "revalidate": revalidate}
    found = (
        _plan(specs, asked, location, as_json=as_json, **options)
        if dry_run
        else _build(specs, asked, location, as_json=as_json, **options)
    )
    if exit_code and found:
        sys.exit(1)


def _plan(
    specs: Sequence[CollectionSpec],
    asked: dict[str, list[str]],
    location: Location,
    *,
    as_json: bool,
    force: bool,
    revalidate: bool,
) -> bool:
    """Print what a build would do; return whether a partition is to be built."""
    from rasteret_assets.api import plan

    documents, partitions = [], 0
    for spec in specs:
        found = plan(
            spec, filesystem=location.filesystem_of, force=force, revalidate=revalidate,
            workspace_filesystem=location.filesystem_of(str(spec.published_path)), partitions=asked.get(spec.name),
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
    *,
    as_json: bool,
    force: bool,
    revalidate: bool,
) -> bool:
    """Build collections and print what was done; return whether a header is missing."""
    documents = []
    with _told_of_interrupts(), dagster_instance() as instance:
        for spec in specs:
            options: dict[str, Any] = {"force": force, "revalidate": revalidate, "partitions": asked.get(spec.name)}
            done = (
                _by_library(spec, location, **options)
                if instance is None
                else _by_graph(spec, location, instance, **options)
            )
            documents.append({"collection": spec.name, "path": spec.published_path, **done})
            if not as_json:
                _tell(documents[-1])
    if as_json:
        print_json(documents)
    # Because headers that an earlier build could not read are missing too, where nothing had to be done now.
    return any(location.workspace_of(spec).failures() for spec in specs)


@contextmanager
def _told_of_interrupts() -> Iterator[None]:
    """End an interrupted command with the exit code of shells, and say that headers are kept."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("Interrupted. Headers that have come are kept: the same command goes on from there.", err=True)
        sys.exit(130)


def _asked(specs: Sequence[CollectionSpec], partitions: Sequence[str], location: Location) -> dict[str, list[str]]:
    """Return the partitions to look at, by collection; of several collections each gets those that it has.

    Raises:
        UsageError: if none of several collections has a partition. (With one collection, the build itself refuses.)
    """
    if not partitions:
        return {}
    if len(specs) == 1:
        return {specs[0].name: list(partitions)}
    from rasteret_assets.source.stored import load_profile

    there = {}
    for spec in specs:
        workspace = location.workspace_of(spec)
        profile = load_profile(workspace, location.source_of(spec, workspace), spec)
        there[spec.name] = {*profile.partitions, *workspace.states()}
    if unknown := [key for key in partitions if not any(key in keys for keys in there.values())]:
        raise click.UsageError(f"no collection has a partition {', '.join(unknown)}")
    return {name: [key for key in partitions if key in keys] for name, keys in there.items()}


def _by_library(spec: CollectionSpec, location: Location, **options: Any) -> dict[str, Any]:
    from rasteret_assets.api import build as library_build

    report = library_build(
        spec, filesystem=location.filesystem_of, backend=location.backend_of(spec),
        workspace_filesystem=location.filesystem_of(str(spec.published_path)), **options,
    )  # fmt: skip
    totals = {name: report.totals.get(name, 0) for name in _COUNTS}
    return {"partitions": report.reasons, "totals": totals, "query_parameters": report.query_parameters}


def _by_graph(
    spec: CollectionSpec,
    location: Location,
    instance: dg.DagsterInstance,
    *,
    force: bool,
    revalidate: bool,
    partitions: Sequence[str] | None,
) -> dict[str, Any]:
    from rasteret_assets.dagster import materialize_collection
    from rasteret_assets.pipeline.plan import refuse_unknown, stale_partitions
    from rasteret_assets.publish.parameters import KEPT, TAKEN
    from rasteret_assets.source.stored import load_profile
    from rasteret_assets.storage.workspace.commit import verified_states

    workspace, trust_stored = location.workspace_of(spec), not (force or spec.force)
    source = location.source_of(spec, workspace, trust_stored=trust_stored)
    profile = load_profile(workspace, source, spec, trust_stored=trust_stored)
    states = verified_states(workspace)
    refuse_unknown(partitions, profile, states)
    reasons = stale_partitions(states, profile, spec, force=force, revalidate=revalidate, only=partitions)
    totals: Counter[str] = Counter(dict.fromkeys(_COUNTS, 0))
    parameters: dict[str, set[str]] = {KEPT: set(), TAKEN: set()}
    if reasons:
        counts = materialize_collection(
            spec, instance, resources=location.resources, keys=list(reasons), force=force, revalidate=revalidate
        )
        for stages in counts.values():
            totals["records"] += stages.get("collection", {}).get("rows", 0)
            for name, names in parameters.items():
                names.update(filter(None, str(stages.get("collection", {}).get(name, "")).split("\n")))
            headers = stages.get("band_metadata", {})
            totals.update({name: headers.get(name, 0) for name in _COUNTS[1:]})
    told = {"kept": sorted(parameters[KEPT]), "taken_out": sorted(parameters[TAKEN])}
    return {"partitions": reasons, "totals": dict(totals), "query_parameters": told}


def _tell(document: dict[str, Any]) -> None:
    partitions, totals = document["partitions"], document["totals"]
    if not partitions:
        click.echo(f"{document['collection']}: nothing to do, all partitions are as the source has them")
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(Counter(partitions.values()).items()))
    click.echo(
        f"{document['collection']}: {len(partitions)} partitions ({reasons}), {totals['records']} records; "
        f"{totals['headers_fetched']} headers fetched, {totals['headers_reused']} reused, "
        f"{totals['headers_failed']} failed, {totals['requests']} requests"
    )
    for name, what in (("kept", "kept in"), ("taken_out", "taken out of")):
        if names := document.get("query_parameters", {}).get(name):
            click.echo(printable(f"query parameters {what} published addresses: {', '.join(names)}"))
    click.echo(f"published in {document['path']}")
