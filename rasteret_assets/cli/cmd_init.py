"""``rasteret-assets init``: propose a declaration for a record table, or make one of a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rasteret_assets.cli import library
from rasteret_assets.cli.common import in_one_line, json_option, print_json
from rasteret_assets.cli.location import Location, located

if TYPE_CHECKING:
    from rasteret_assets.declare import Recipe


@click.command()
@click.argument("table", required=False)
@located
@click.option("--list", "lists", is_flag=True, help="List the well-known datasets.")
@click.option("--bbox", type=float, nargs=4, metavar="W S E N", help="Area of a well-known dataset, in degrees.")
@click.option("--datetime", help="Time of a well-known dataset, such as 2024-05 or 2024-01-01/2024-06-30.")
@click.option("--name", default="", help="Name of the collection.  [default: that of the table or dataset]")
@click.option("--workspace", "workspace_dir", help="Folder or URI to publish in.  [default: ~/rasteret_workspace]")
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.  [default: NAME.yaml in the folder of --collections]",
)
@click.option("--overwrite", is_flag=True, help="Replace the file where it exists.")
@click.option("--dry-run", is_flag=True, help="Print the declaration instead of writing it.")
@json_option
@in_one_line
def init(
    table: str | None,
    *,
    location: Location,
    lists: bool,
    bbox: tuple[float, float, float, float] | None,
    datetime: str | None,
    name: str,
    workspace_dir: str | None,
    out: Path | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write a declaration for a record table or a well-known dataset.

    TABLE is a path, URI or address of a Parquet or GeoParquet file, a folder or glob of such files, or a STAC
    Collection of them; or a dataset that --list names, such as earth-search/sentinel-2-c1-l2a. Comments in the
    declaration say which columns of a table were recognised. Warnings name missing columns, and rows that a build would
    reject.
    """
    if lists:
        _list(as_json=as_json)
        return
    if table is None:
        raise click.UsageError("name a record table, or one of the datasets of: rasteret-assets init --list")
    # Made absolute, because a typed path starts at the current folder, and a path in a declaration at that of its file.
    workspace = None if workspace_dir is None else _from_here(workspace_dir)
    recipe = library.find_recipe(table)
    proposed: dict[str, Any]
    if recipe is not None:
        values = recipe.declaration(name=name, workspace_dir=workspace, bbox=bbox, datetime=datetime)
        text = recipe.to_yaml(values)
        proposed = {"values": values, "notes": list(recipe.head), "warnings": _wide(recipe, values)}
    elif bbox is not None or datetime is not None:
        raise click.UsageError(f"--bbox and --datetime are for datasets of --list, and {table} is a record table")
    else:
        place = _from_here(table)
        proposal = library.propose(place, name=name, workspace_dir=workspace, filesystem=location.filesystem_of)
        text, proposed = proposal.to_yaml(), vars(proposal)
    file = out or location.declarations / f"{proposed['values']['name']}.yaml"
    if not dry_run:
        _write(file, text, overwrite=overwrite)
    if as_json:
        print_json({"file": None if dry_run else str(file), **proposed})
        return
    for note in () if dry_run else proposed["notes"]:
        click.echo(note)
    for warning in () if dry_run and recipe is None else proposed["warnings"]:
        click.echo(f"Warning: {warning}", err=True)
    if dry_run:
        click.echo(text, nl=False)
    else:
        click.echo(f"wrote {file}; see what a build would do with: rasteret-assets build --dry-run {file}")


def _write(file: Path, text: str, *, overwrite: bool) -> None:
    """Write a declaration, and beside it the JSON schema that editors use."""
    if file.exists() and not overwrite:
        raise click.UsageError(f"{file} exists already: name another file with --out, or replace it with --overwrite")
    schema = json.dumps(library.json_schema(), indent=1) + "\n"
    with library.naming_target(file, "name a file in a folder that may be written to with --out"):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Editors find the schema by the first line of the declaration.
        (file.parent / library.SCHEMA_FILE).write_text(schema, encoding="utf-8")
        file.write_text(f"# yaml-language-server: $schema={library.SCHEMA_FILE}\n{text}", encoding="utf-8")


def _list(*, as_json: bool) -> None:
    """Print the datasets that have a recipe: their ids, titles and what reading them takes."""
    found = library.recipes()
    if as_json:
        print_json([{"id": one.id, "title": one.title, "needs": one.needs, "about": list(one.head)} for one in found])
        return
    width = max(len(one.id) for one in found)
    for one in found:
        click.echo(f"{one.id:<{width}}  {one.title}{f' ({one.needs})' if one.needs else ''}")


def _wide(recipe: Recipe, values: dict[str, Any]) -> list[str]:
    """Return a warning where a recipe would harvest its whole catalog."""
    harvest = values.get("harvest")
    if harvest is None or {"bbox", "intersects", "datetime"} & harvest.keys():
        return []
    return [f"a build will harvest all of {recipe.id}: choose an area with --bbox, or a time with --datetime"]


def _from_here(path: str) -> str:
    """Return a typed path as an absolute one; a URI as it is."""
    return path if "://" in path else str(Path(path).expanduser().absolute())
