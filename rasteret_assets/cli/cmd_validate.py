"""``rasteret-assets validate``: every mistake in declarations, by file and line."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from rasteret_assets.cli import library
from rasteret_assets.cli.common import in_one_line, json_option, print_json, printable
from rasteret_assets.cli.location import Location, collections_option
from rasteret_assets.errors import DeclarationError, Mistake
from rasteret_assets.message_lists import count_of


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE]...")
@collections_option
@json_option
@in_one_line
def validate(files: tuple[str, ...], *, folder: Path | None, as_json: bool) -> None:
    """List the mistakes in declarations.

    A mistake is listed with its file, line and field, and what to write instead. A FILE is a YAML file; without one,
    all files of the folder of declarations are read. Reads no record table. Exits with 1 where there is a mistake.
    """
    if others := [name for name in files if not name.lower().endswith((".yaml", ".yml"))]:
        raise click.UsageError(f"{', '.join(others)}: not a YAML file")
    found, mistakes = Location(folder).files(files), tuple[Mistake, ...]()
    try:
        library.read_files(found)
    except DeclarationError as error:
        mistakes = error.mistakes
    if as_json:
        print_json({"files": list(map(str, found)), "mistakes": list(map(asdict, mistakes))})
    else:
        for mistake in mistakes:
            click.echo(printable(str(mistake)))
        read = count_of(len(found), "file")
        right = "is right" if len(found) == 1 else "are right"
        click.echo(f"{read}, {count_of(len(mistakes), 'mistake')}" if mistakes else f"{read} {right}")
    if mistakes:
        sys.exit(1)
