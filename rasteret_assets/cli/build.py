"""``rasteret-assets plan``, ``build``, ``status`` and ``discover``: a collection brought up to date, and how it stands.

Where DAGSTER_HOME is set a build goes through the graph of that instance, in this process, so that the UI shows it;
otherwise the library builds. Both touch the same partitions and publish the same bytes.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rasteret_assets.cli.common import (
    collections_option,
    dagster_instance,
    declared,
    in_one_line,
    json_option,
    partition_option,
    print_json,
    print_table,
    printable,
    workspace_of,
)

if TYPE_CHECKING:
    import dagster as dg

    from rasteret_assets.spec import CollectionSpec

# ruff: noqa: PLC0415  (see common.py)

_COUNTS = ("records", "headers_fetched", "headers_reused", "headers_failed", "requests", "request_bytes")

force_option = click.option("--force", is_flag=True, help="Fetch every header again and rebuild every partition.")
revalidate_option = click.option(
    "--revalidate", is_flag=True, help="Ask whether the files of known headers have changed, and read those that have."
)


@click.command()
@click.argument("collections", nargs=-1)
@collections_option
@partition_option
@force_option
@revalidate_option
@json_option
@in_one_line
def plan(
    collections: tuple[str, ...], *, folder: Path | None, partitions: tuple[str, ...], force: bool, revalidate: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Say what a build would do: partitions and why, headers to fetch. Asks no host and publishes nothing.

    COLLECTIONS are YAML files or names of declared collections; all that are declared when omitted.
    """
    from rasteret_assets.api import plan as plan_build

    documents, specs = [], declared(collections, folder)
    asked = _asked(specs, partitions)
    for spec in specs:
        found = plan_build(spec, force=force, revalidate=revalidate, partitions=asked.get(spec.name))
        if as_json:
            rows = found.to_table().to_pylist()
            documents.append(
                {"collection": spec.name, "partitions": rows, "current": list(found.current), "totals": found.totals}
            )
        else:
            click.echo(f"{spec.name}: {found}" if not found.partitions else f"{spec.name}\n{found}")
    if as_json:
        print_json(documents)


@click.command()
@click.argument("collections", nargs=-1)
@collections_option
@partition_option
@force_option
@revalidate_option
@click.option("--strict", is_flag=True, help="Exit with 1 where headers are missing.")
@json_option
@in_one_line
def build(
    collections: tuple[str, ...], *, folder: Path | None, partitions: tuple[str, ...], force: bool, revalidate: bool,
    strict: bool, as_json: bool,
) -> None:  # fmt: skip
    """Bring collections up to date, touching only what changed.

    COLLECTIONS are YAML files or names of declared collections; all that are declared when omitted. Where DAGSTER_HOME
    is set the build is recorded on that instance.
    """
    documents, specs = [], declared(collections, folder)
    asked = _asked(specs, partitions)
    with _told_of_interrupts(), dagster_instance() as instance:
        for spec in specs:
            options: dict[str, Any] = {"force": force, "revalidate": revalidate, "partitions": asked.get(spec.name)}
            done = _by_library(spec, **options) if instance is None else _by_graph(spec, instance, **options)
            documents.append({"collection": spec.name, "path": spec.published_path, **done})
            if not as_json:
                _tell(documents[-1])
    if as_json:
        print_json(documents)
    # Also those that an earlier build could not read: nothing may have been to do now.
    if strict and any(workspace_of(spec).failures() for spec in specs):
        sys.exit(1)


@click.command()
@click.argument("collections", nargs=-1)
@collections_option
@json_option
@in_one_line
def status(collections: tuple[str, ...], *, folder: Path | None, as_json: bool) -> None:
    """Say how collections stand: what is published, what differs from the source, what failed.

    COLLECTIONS are YAML files or names of declared collections; all that are declared when omitted.
    """
    with dagster_instance() as instance:
        documents = [_status(spec, instance) for spec in declared(collections, folder)]
    if as_json:
        print_json(documents)
        return
    columns = ("collection", "published", "records", "to build", "missing headers", "last run")
    print_table(columns, [
        (
            document["collection"], document["partitions"], document["records"], len(document["stale"]),
            sum(document["failures"].values()), document["last_run"] or "-",
        )
        for document in documents
    ])  # fmt: skip
    for document in documents:
        reasons = Counter(document["stale"].values())
        if reasons:
            text = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            click.echo(f"{document['collection']}: to build: {text}")


@click.command()
@collections_option
@json_option
@in_one_line
def discover(*, folder: Path | None, as_json: bool) -> None:
    """Register the partitions of all declared collections on the Dagster instance of DAGSTER_HOME."""
    if not os.environ.get("DAGSTER_HOME"):
        raise click.UsageError("DAGSTER_HOME is not set: it names the folder of the Dagster instance")
    specs = declared((), folder)
    from rasteret_assets.orchestration.partitions import discover_partitions
    from rasteret_assets.orchestration.resources import FilesystemResource
    from rasteret_assets.source.stored import load_profile

    filesystem, found = FilesystemResource(), {}
    with dagster_instance() as instance:
        if instance is None:
            return
        for spec in specs:
            workspace = filesystem.open_workspace(spec)
            profile = load_profile(workspace, filesystem.open_source(spec), spec)
            keys = discover_partitions(instance, spec, profile, workspace.states())
            found[spec.name] = keys
            if not as_json:
                shown = [keys[0], "...", keys[-1]] if len(keys) > 3 else keys
                click.echo(f"{spec.name}: {len(keys)} partitions ({', '.join(shown)})")
    if as_json:
        print_json(found)


@contextmanager
def _told_of_interrupts() -> Iterator[None]:
    """End an interrupted command with the exit code of shells, and say that headers are kept."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo("Interrupted. Headers that have come are kept: the same command goes on from there.", err=True)
        sys.exit(130)


def _asked(specs: Sequence[CollectionSpec], partitions: Sequence[str]) -> dict[str, list[str]]:
    """Return the partitions to look at, by collection; of several collections each gets those that it has.

    Raises:
        UsageError: if none of several collections has a partition. (With one collection, the build itself refuses.)
    """
    if not partitions:
        return {}
    if len(specs) == 1:
        return {specs[0].name: list(partitions)}
    from rasteret_assets.source.stored import load_profile, open_known

    there = {}
    for spec in specs:
        workspace = workspace_of(spec)
        there[spec.name] = {
            *load_profile(workspace, open_known(workspace, spec.path, spec), spec).partitions,
            *workspace.states(),
        }
    if unknown := [key for key in partitions if not any(key in keys for keys in there.values())]:
        raise click.UsageError(f"no collection has a partition {', '.join(unknown)}")
    return {name: [key for key in partitions if key in keys] for name, keys in there.items()}


def _by_library(
    spec: CollectionSpec, *, force: bool, revalidate: bool, partitions: Sequence[str] | None
) -> dict[str, Any]:
    from rasteret_assets.api import build as library_build

    report = library_build(spec, force=force, revalidate=revalidate, partitions=partitions)
    totals = {name: report.totals.get(name, 0) for name in _COUNTS}
    return {"partitions": report.reasons, "totals": totals, "query_parameters": report.query_parameters}


def _by_graph(
    spec: CollectionSpec,
    instance: dg.DagsterInstance,
    *,
    force: bool,
    revalidate: bool,
    partitions: Sequence[str] | None,
) -> dict[str, Any]:
    from rasteret_assets.orchestration.materialize import materialize_collection
    from rasteret_assets.pipeline.plan import refuse_unknown, stale_partitions
    from rasteret_assets.publish.parameters import KEPT, TAKEN
    from rasteret_assets.source.stored import load_profile, open_known
    from rasteret_assets.storage.commit import verified_states

    workspace, trust_stored = workspace_of(spec), not (force or spec.force)
    source = open_known(workspace, spec.path, spec, trust_stored=trust_stored)
    profile = load_profile(workspace, source, spec, trust_stored=trust_stored)
    states = verified_states(workspace)
    refuse_unknown(partitions, profile, states)
    reasons = stale_partitions(states, profile, spec, force=force, revalidate=revalidate, only=partitions)
    totals: Counter[str] = Counter(dict.fromkeys(_COUNTS, 0))
    parameters: dict[str, set[str]] = {KEPT: set(), TAKEN: set()}
    if reasons:
        counts = materialize_collection(spec, instance, keys=list(reasons), force=force, revalidate=revalidate)
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


def _status(spec: CollectionSpec, instance: dg.DagsterInstance | None) -> dict[str, Any]:
    from rasteret_assets.pipeline.plan import stale_partitions
    from rasteret_assets.source.stored import load_profile, open_known
    from rasteret_assets.storage.commit import verified_states

    workspace = workspace_of(spec)
    states = verified_states(workspace)
    profile = load_profile(workspace, open_known(workspace, spec.path, spec), spec)
    return {
        "collection": spec.name,
        "path": spec.published_path,
        "partitions": len(states),
        "records": sum(int(state.get("rows", 0)) for state in states.values()),
        "stale": stale_partitions(states, profile, spec),
        "failures": workspace.failures(states),
        "last_run": None if instance is None else _last_run(spec, instance),
    }


def _last_run(spec: CollectionSpec, instance: dg.DagsterInstance) -> str | None:
    """Return status and end of the collection's last run on an instance."""
    import dagster as dg

    from rasteret_assets.orchestration.jobs import COLLECTION_TAG

    records = instance.get_run_records(dg.RunsFilter(tags={COLLECTION_TAG: spec.name}), limit=1)
    if not records:
        return None
    return f"{records[0].dagster_run.status.value.lower()} {records[0].update_timestamp:%Y-%m-%d %H:%M}"
