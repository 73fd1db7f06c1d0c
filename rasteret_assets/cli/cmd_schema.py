"""``rasteret-assets schema``: the JSON schema of declarations."""

from __future__ import annotations

import click

from rasteret_assets.cli import library
from rasteret_assets.cli.common import in_one_line, print_json


@click.command()
@in_one_line
def schema() -> None:
    """Print the JSON schema of declarations.

    By the schema, editors complete words and underline mistakes. init writes it beside the declarations.
    """
    print_json(library.json_schema())
