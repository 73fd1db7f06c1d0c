"""``rasteret-assets init``: look at a record table and propose a declaration."""

from __future__ import annotations

import json
from pathlib import Path

import click

from rasteret_assets.cli.common import in_one_line, json_option, print_json
from rasteret_assets.cli.location import Location, located

# ruff: noqa: PLC0415  (see common.py)


@click.command()
@click.argument("table")
@located
@click.option("--name", default="", help="Name of the collection.  [default: that of the table]")
@click.option("--workspace", "workspace_dir", help="Folder or URI to publish in.  [default: ~/rasteret_workspace]")
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.  [default: NAME.yaml in the folder of --collections]",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
@click.option("--dry-run", is_flag=True, help="Print the declaration instead of writing it.")
@json_option
@in_one_line
def init(
    table: str,
    *,
    location: Location,
    name: str,
    workspace_dir: str | None,
    out: Path | None,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write a declaration for a record table.

    TABLE is a path, URI or address of a Parquet or GeoParquet file, a folder or glob of such files, or a STAC
    Collection of them. What was recognised, and what would be rejected, stands in the file as comments, and what is
    wrong is told as warnings.
    """
    from rasteret_assets.declare import SCHEMA_FILE, json_schema, propose

    # The file lies elsewhere: what is relative in it starts there, and what was typed here.
    workspace = None if workspace_dir is None else _from_here(workspace_dir)
    place = _from_here(table)
    proposal = propose(place, name=name, workspace_dir=workspace, filesystem=location.filesystem_of)
    file = out or location.declarations / f"{proposal.values['name']}.yaml"
    if not dry_run:
        if file.exists() and not overwrite:
            raise click.UsageError(f"{file} is there already: give another --out, or --overwrite")
        file.parent.mkdir(parents=True, exist_ok=True)
        # Where editors look for what they complete and underline.
        (file.parent / SCHEMA_FILE).write_text(json.dumps(json_schema(), indent=1) + "\n", encoding="utf-8")
        head = f"# yaml-language-server: $schema={SCHEMA_FILE}\n"
        file.write_text(head + proposal.to_yaml(), encoding="utf-8")
    if as_json:
        print_json({"file": None if dry_run else str(file), **vars(proposal)})
    elif dry_run:
        click.echo(proposal.to_yaml(), nl=False)
    else:
        for note in proposal.notes:
            click.echo(note)
        for warning in proposal.warnings:
            click.echo(f"Warning: {warning}", err=True)
        click.echo(f"wrote {file}; see what a build would do with: rasteret-assets build --dry-run {file}")


def _from_here(path: str) -> str:
    """Return a typed path as an absolute one; a URI as it is."""
    return path if "://" in path else str(Path(path).expanduser().absolute())
