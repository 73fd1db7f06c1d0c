"""What the commands share: errors in one line, collections by name or file, output for people and for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from datetime import date
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dagster as dg
    from rich.console import Console

    from rasteret_assets.spec import CollectionSpec
    from rasteret_assets.storage.workspace import Workspace

# Dagster, matplotlib and the rest of the package take seconds to import: the commands import what they need
# themselves, so that --help and --version answer at once.
# ruff: noqa: PLC0415

P = ParamSpec("P")

#: Options that several commands have.
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
collections_option = click.option(
    "--collections", "folder", type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of the YAML files with collections.  [default: $RASTERET_ASSETS_COLLECTIONS, else ./collections]",
)  # fmt: skip
partition_option = click.option(
    "--partition", "-p", "partitions", multiple=True, metavar="KEY",
    help="Only this partition, such as 2024-05 or undated; may be given several times.",
)  # fmt: skip


def in_one_line(command: Callable[P, None]) -> Callable[P, None]:
    """End a command with one line on stderr and code 1 where the package or a file raises an error."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from rasteret_assets.errors import RasteretAssetsError

        try:
            command(*args, **kwargs)
        except RasteretAssetsError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(1)
        except OSError as error:
            # No room, no permission, no such folder: of all others the place in the code is what helps.
            if error.filename is None:
                raise
            click.echo(f"Error: {os.fsdecode(error.filename)}: {error.strerror}", err=True)
            sys.exit(1)

    return run


def declared(names: Sequence[str], folder: Path | None) -> list[CollectionSpec]:
    """Return collections by YAML file or by name; all of the folder when none is named.

    Raises:
        UsageError: if there is no such file, name or folder.
    """
    from rasteret_assets.declare import read_spec, read_specs

    files = [name for name in names if name.lower().endswith((".yaml", ".yml"))]
    specs = [read_spec(_existing(name)) for name in files]
    wanted = [name for name in names if name not in files]
    if files and not wanted:
        return specs
    folder = folder or declarations()
    if not folder.is_dir():
        raise click.UsageError(
            f"{folder} is not a folder: name a YAML file, or the folder of the declarations with --collections"
        )
    known = {spec.name: spec for spec in read_specs(folder)}
    if not known:
        raise click.UsageError(
            f"{folder} holds no YAML file: rasteret-assets init writes one that declares a collection"
        )
    if unknown := [name for name in wanted if name not in known]:
        raise click.UsageError(
            f"{folder} declares no collection {', '.join(unknown)}; it has {', '.join(known) or 'none'}"
        )
    return [*specs, *(known[name] for name in wanted)] if names else list(known.values())


def declarations() -> Path:
    """Return the folder of declarations where none is given."""
    from rasteret_assets.declare import COLLECTIONS_VARIABLE

    return Path(os.environ.get(COLLECTIONS_VARIABLE) or "collections")


def published_place(given: str) -> str:
    """Return where a collection is published: the place given, or that of a declaration by file or name."""
    from rasteret_assets.declare import read_spec, read_specs

    if given.lower().endswith((".yaml", ".yml")):
        return str(read_spec(given).published_path)
    folder = declarations()
    if "/" not in given and not Path(given).exists() and folder.is_dir():
        return next((str(spec.published_path) for spec in read_specs(folder) if spec.name == given), given)
    return given


def workspace_of(spec: CollectionSpec) -> Workspace:
    """Return the workspace of a declared collection."""
    from rasteret_assets.storage.workspace import Workspace

    return Workspace.of(spec)


@contextmanager
def dagster_instance() -> Iterator[dg.DagsterInstance | None]:
    """Open the Dagster instance of DAGSTER_HOME; yield None where DAGSTER_HOME is not set."""
    if not os.environ.get("DAGSTER_HOME"):
        yield None
        return
    import dagster as dg

    with dg.DagsterInstance.get() as instance:
        yield instance


def print_json(document: Any) -> None:
    """Print a result as one JSON document on stdout."""
    click.echo(json.dumps(document, indent=1, default=_plain))


def console_of_stdout() -> Console:
    """Return the console for people. A terminal wraps; in a file or a pipe a row stays a line, for grep and cut."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 1000)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows as a table; numbers to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(columns):
        numeric = all(isinstance(row[position], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    console_of_stdout().print(table)


def printable(text: str) -> str:
    """Return text without what a terminal would obey: escape sequences, line ends."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _existing(name: str) -> Path:
    if not Path(name).is_file():
        raise click.UsageError(f"{name}: no such file")
    return Path(name)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else str(value)
