"""What the commands share: options, errors in one line, output for people and for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rasteret_assets.cli import library
from rasteret_assets.errors import RasteretAssetsError

if TYPE_CHECKING:
    from rasteret_assets.cli.instance import Instance

P = ParamSpec("P")
Command = Callable[P, None]

#: Options that several commands have.
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")
partition_option = click.option(
    "--partition", "-p", "partitions", multiple=True, metavar="KEY",
    help="Only this partition, such as 2024-05 or undated. May be given several times.",
)  # fmt: skip
force_option = click.option("--force", is_flag=True, help="Fetch every header again and rebuild every partition.")


def exit_code_option(where: str) -> Callable[[Command[P]], Command[P]]:
    """Return the option ``--exit-code``, as git has it: without it a command that did its work exits with 0.

    Args:
        where: what makes the exit code 1.
    """
    return click.option("--exit-code", is_flag=True, help=f"Exit with 1 where {where}.")


def in_one_line(command: Command[P]) -> Command[P]:
    """End a command with one line on stderr and code 1 where the package or a file raises an error."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except RasteretAssetsError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(1)
        except OSError as error:
            # Because errors that name a file (no room, no permission, no such folder) say all that helps; for all
            # others the place in the code is what helps.
            if error.filename is None:
                raise
            click.echo(f"Error: {os.fsdecode(error.filename)}: {error.strerror}", err=True)
            sys.exit(1)

    return run


@contextmanager
def dagster_instance() -> Iterator[Instance | None]:
    """Open the Dagster instance of DAGSTER_HOME; yield None where DAGSTER_HOME is not set."""
    if not os.environ.get("DAGSTER_HOME"):
        yield None
        return
    with library.open_instance() as instance:
        yield instance


def print_json(document: Any) -> None:
    """Print a result as one JSON document on stdout."""
    click.echo(json.dumps(document, indent=1, default=_plain))


def console_of_stdout() -> Console:
    """Return the console for text. A terminal wraps lines; in a file or a pipe a row stays a line, for grep and cut."""
    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 1000)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows as a table; numbers to the right."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(columns):
        numeric = all(isinstance(row[position], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    console_of_stdout().print(table)


def printable(text: str) -> str:
    """Return text with ``?`` for letters that a terminal does not print, such as escape sequences and line ends."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else str(value)
