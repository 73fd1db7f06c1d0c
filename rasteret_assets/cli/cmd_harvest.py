"""``rasteret-assets harvest``: STAC items of an API or a catalog, brought up to date before a build reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from rasteret_assets.cli import library
from rasteret_assets.cli.common import dagster_instance, in_one_line, json_option, print_json, printable
from rasteret_assets.cli.location import Location, located

if TYPE_CHECKING:
    from rasteret_assets.harvesting.harvest_report import HarvestReport
    from rasteret_assets.spec import CollectionSpec


@click.command()
@click.argument("collections", nargs=-1, metavar="[COLLECTION]...")
@located
@click.option("--full", is_flag=True, help="Ask for all windows, also for those that cannot have changed.")
@json_option
@in_one_line
def harvest(collections: tuple[str, ...], *, location: Location, full: bool, as_json: bool) -> None:
    """Bring harvested STAC items up to date.

    Asks the API or catalog only for windows of time that can have changed, and replaces only files whose items changed.
    build does so too, before it builds. A COLLECTION is a YAML file or the name of a declared collection; without one,
    all collections that are declared with harvest are meant. Where DAGSTER_HOME is set, its instance records the
    harvest.
    """
    specs = location.specs(collections)
    chosen = [spec for spec in specs if spec.harvest is not None or collections]
    if not chosen:
        raise click.UsageError("no collection is declared with harvest: name the STAC API or catalog in a declaration")
    reports = [(spec, harvest_collection(spec, location, full=full, quiet=as_json)) for spec in chosen]
    if as_json:
        print_json([{"collection": spec.name, **report.to_json()} for spec, report in reports])


def harvest_collections(specs: Sequence[CollectionSpec], location: Location, *, quiet: bool) -> None:
    """Harvest the collections among ``specs`` that are declared with ``harvest``."""
    for spec in specs:
        if spec.harvest is not None:
            harvest_collection(spec, location, quiet=quiet)


def harvest_collection(spec: CollectionSpec, location: Location, *, full: bool = False, quiet: bool) -> HarvestReport:
    """Harvest a collection, and print what was done."""
    workspace = location.workspace_of(spec)
    with library.harvest_progress(spec.name) as progress:
        report = library.harvest_items(spec, workspace, force=full, progress=progress)
    with dagster_instance() as instance:
        if instance is not None:
            instance.report_harvest(spec, workspace, report)
    if not quiet:
        click.echo(printable(f"{spec.name}: {report}"))
    library.refuse_failed_windows(spec, report)
    return report
