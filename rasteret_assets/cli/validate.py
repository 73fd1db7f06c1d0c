"""``rasteret-assets validate`` and ``schema``: declarations held against what a collection can be."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from rasteret_assets.cli.common import in_one_line, json_option, print_json, printable
from rasteret_assets.cli.location import Location, collections_option

# ruff: noqa: PLC0415  (see common.py)


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE]...")
@collections_option
@json_option
@in_one_line
def validate(files: tuple[str, ...], *, folder: Path | None, as_json: bool) -> None:
    """Tell every mistake in declarations.

    Each with its file, line and field, and what to write instead. A FILE is a YAML file; all files of the folder of
    declarations when omitted. Reads no record table. Exits with 1 where there is a mistake.
    """
    from rasteret_assets.declare import read_files
    from rasteret_assets.errors import DeclarationError, Mistake

    if others := [name for name in files if not name.lower().endswith((".yaml", ".yml"))]:
        raise click.UsageError(f"{', '.join(others)}: not a YAML file")
    found, mistakes = Location(folder).files(files), tuple[Mistake, ...]()
    try:
        read_files(found)
    except DeclarationError as error:
        mistakes = error.mistakes
    if as_json:
        print_json({"files": list(map(str, found)), "mistakes": list(map(asdict, mistakes))})
    else:
        for mistake in mistakes:
            click.echo(printable(str(mistake)))
        click.echo(f"{len(found)} files, {len(mistakes)} mistakes" if mistakes else f"{len(found)} files are right")
    if mistakes:
        sys.exit(1)


@click.command()
@in_one_line
def schema() -> None:
    """Print the JSON schema of declarations.

    Editors complete and underline by it; init writes it beside the declarations.
    """
    from rasteret_assets.declare import json_schema

    print_json(json_schema())
