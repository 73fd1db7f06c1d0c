"""``rasteret-assets init``: look at a record table and propose a declaration."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from rasteret_assets.cli.common import in_one_line, json_option, print_json

# ruff: noqa: PLC0415  (see common.py)


@click.command()
@click.argument("table")
@click.option("--name", default="", help="Name of the collection.  [default: that of the table]")
@click.option("--workspace", "workspace_dir", help="Folder or URI to publish in.  [default: ~/rasteret_workspace]")
@click.option(
    "--out",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write.  [default: collections/NAME.yaml]",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
@click.option("--dry-run", is_flag=True, help="Print the declaration instead of writing it.")
@json_option
@in_one_line
def init(
    table: str, *, name: str, workspace_dir: str | None, out: Path | None, overwrite: bool, dry_run: bool, as_json: bool
) -> None:
    """Look at the record table TABLE and write a declaration of a collection for it.

    What was recognised, and what would be rejected, stands in the file as comments. TABLE is a path or URI of a Parquet
    or GeoParquet file or a folder of such files.
    """
    from rasteret_assets.declare import propose

    # The file lies elsewhere: what is relative in it starts there, and what was typed here.
    workspace = None if workspace_dir is None else _from_here(workspace_dir)
    proposal = propose(_from_here(table), name=name, workspace_dir=workspace)
    file = out or Path("collections") / f"{proposal.values['name']}.yaml"
    if not dry_run:
        if file.exists() and not overwrite:
            raise click.UsageError(f"{file} is there already: give another --out, or --overwrite")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(proposal.to_yaml(), encoding="utf-8")
    if as_json:
        print_json({"file": None if dry_run else str(file), **vars(proposal)})
    elif dry_run:
        click.echo(proposal.to_yaml(), nl=False)
    else:
        for note in proposal.notes:
            click.echo(note)
        for warning in proposal.warnings:
            click.echo(f"Warning: {warning}", err=True)
        click.echo(f"wrote {file}; see what a build would do with: rasteret-assets plan {file}")
    if proposal.warnings:
        sys.exit(1)


def _from_here(path: str) -> str:
    """Return a typed path as an absolute one; a URI as it is."""
    return path if "://" in path else str(Path(path).expanduser().absolute())
