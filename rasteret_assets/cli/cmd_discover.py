"""``rasteret-assets discover``: partitions registered on a Dagster instance."""

from __future__ import annotations

import click

from rasteret_assets.cli.common import dagster_instance, in_one_line, json_option, print_json
from rasteret_assets.cli.location import Location, located
from rasteret_assets.message_lists import count_of


@click.command()
@click.argument("collections", nargs=-1, metavar="[COLLECTION]...")
@located
@json_option
@in_one_line
def discover(collections: tuple[str, ...], *, location: Location, as_json: bool) -> None:
    """Register partitions on the Dagster instance.

    DAGSTER_HOME names the folder of the instance. The partitions are those of the record table. A COLLECTION is a YAML
    file or the name of a declared collection; without one, all declared collections are meant.
    """
    found = {}
    with dagster_instance() as instance:
        if instance is None:
            raise click.UsageError("DAGSTER_HOME is not set: set it to the folder of the Dagster instance")
        for spec in location.specs(collections):
            keys = instance.register_partitions(spec, location)
            found[spec.name] = keys
            if not as_json:
                shown = [keys[0], "...", keys[-1]] if len(keys) > 3 else keys
                click.echo(f"{spec.name}: {count_of(len(keys), 'partition')} ({', '.join(shown)})")
    if as_json:
        print_json(found)
