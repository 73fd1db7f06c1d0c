"""``rasteret-assets show``: what a published collection holds, and rows of the tables that the stages wrote."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING, Any

import click

from rasteret_assets.cli import library
from rasteret_assets.cli.common import in_one_line, json_option, print_json, printable
from rasteret_assets.cli.location import Location, located
from rasteret_assets.message_lists import count_of
from rasteret_assets.schema import COLLECTION, NORMALIZED, REJECTED, TABLES
from rasteret_assets.secrets import redact_text

if TYPE_CHECKING:
    from rasteret_assets.pipeline.tables import StoredTable
    from rasteret_assets.storage.workspace import Workspace

_ROWS = 20
#: Letters of a text, items of a list and letters of a whole value that are printed at most.
_TEXT, _ITEMS, _VALUE = 120, 5, 400


@click.command()
@click.argument("collection")
@located
@click.option(
    "--partition", "-p", "key", metavar="KEY",
    help="Show rows of this partition, such as 2024-05 or undated. Needed if the stage has several partitions.",
)  # fmt: skip
@click.option(
    "--stage", type=click.Choice(TABLES), help="Show rows of the table of this stage.  [default with -p: collection]"
)
@click.option("--limit", type=click.IntRange(0), default=_ROWS, show_default=True, help="Rows to show at most.")
@json_option
@in_one_line
def show(collection: str, *, location: Location, key: str | None, stage: str | None, limit: int, as_json: bool) -> None:
    """Show a published collection, or rows of a table.

    Without -p and --stage, prints what the collection holds; with either, the first rows of a stage's table.

    COLLECTION is the folder or URI a collection is published in (..._records), or the YAML file or name of a declared
    one. Rows are printed without the signatures, queries and passwords in addresses. Long values are shortened, except
    with --json.
    """
    place = location.published(collection)
    if key is None and stage is None:
        _show_collection(place, location, as_json=as_json)
    else:
        _show_rows(location.workspace_at(place), stage or COLLECTION, key, limit, as_json=as_json)


def _show_collection(place: str, location: Location, *, as_json: bool) -> None:
    collection = library.load(place, filesystem=location.filesystem_of(place))
    summary, partitions = collection.summary, list(location.workspace_at(place).states())
    document = {
        "path": place,
        "records": summary.rows,
        "bands": collection.bands,
        "bounds": summary.bounds,
        "crs": list(summary.crs),
        "dates": summary.dates,
        "partitions": partitions,
        "columns": {column.name: str(column.type) for column in collection.schema},
    }
    if as_json:
        print_json(document)
        return
    click.echo(printable(repr(collection)))
    for name in ("path", "records", "bands", "bounds", "crs"):
        click.echo(f"{name + ':':12} {printable(_text(document[name]))}")
    if summary.dates:
        click.echo(f"{'dates:':12} {summary.dates[0]:%Y-%m-%d %H:%M} to {summary.dates[1]:%Y-%m-%d %H:%M} UTC")
    click.echo(f"{'partitions:':12} {_few(partitions)}")
    click.echo(printable(f"{'columns:':12} {', '.join(column.name for column in collection.schema)}"))


def _show_rows(workspace: Workspace, stage: str, key: str | None, limit: int, *, as_json: bool) -> None:
    key = key or _only_partition(workspace, stage)
    try:
        table = library.open_table(workspace, stage, key)
    except ValueError as error:  # not a partition key
        raise click.UsageError(str(error)) from error
    if table is None and not (stage == REJECTED and key in _partitions(workspace, stage)):
        raise click.UsageError(_not_there(workspace, stage, key))
    if as_json:
        print_json(_document(stage, key, table, limit))
    else:
        _print(stage, key, table, limit)


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(f"{item:.6g}" if isinstance(item, float) else str(item) for item in value) or "none"
    return "none" if value is None else str(value)


def _few(keys: list[str]) -> str:
    return ", ".join(keys) or "none" if len(keys) <= 12 else f"{len(keys)}, from {keys[0]} to {keys[-1]}"


def _partitions(workspace: Workspace, stage: str) -> list[str]:
    # A partition of which no record was rejected has no file of rejected records.
    return library.list_partitions(workspace, NORMALIZED if stage == REJECTED else stage)


def _only_partition(workspace: Workspace, stage: str) -> str:
    keys = _partitions(workspace, stage)
    if len(keys) != 1:
        raise click.UsageError(_not_there(workspace, stage, None))
    return keys[0]


def _not_there(workspace: Workspace, stage: str, key: str | None) -> str:
    keys = _partitions(workspace, stage)
    if not keys:
        return f"{stage} has no partition in {workspace.stages}: build the collection first"
    few = _few(keys)
    return (
        f"name a partition with -p: {stage} has {few}"
        if key is None
        else f"{stage} has no partition {key}; it has {few}"
    )


def _document(stage: str, key: str, table: StoredTable | None, rows: int) -> dict[str, Any]:
    return {
        "stage": stage,
        "partition": key,
        "path": None if table is None else table.path,
        "rows": 0 if table is None else table.rows,
        "columns": {} if table is None else {field.name: str(field.type) for field in table.schema},
        "records": [] if table is None else [_public(row, bytes.hex) for row in table.head(rows).to_pylist()],
    }


def _print(stage: str, key: str, table: StoredTable | None, rows: int) -> None:
    if table is None:
        click.echo(f"{stage} of {key}: 0 rows")
        return
    rows_and_columns = f"{count_of(table.rows, 'row')}, {count_of(len(table.schema), 'column')}"
    click.echo(f"{stage} of {key}: {rows_and_columns}, in {table.path}")
    for field in table.schema:
        click.echo(printable(f"  {field.name}: {_cut(str(field.type), _TEXT)}"))
    width = min(24, max((len(name) for name in table.schema.names), default=0))
    shown = table.head(rows).to_pylist()
    for number, row in enumerate(shown, 1):
        click.echo(f"\nrow {number}")
        for name, value in row.items():
            click.echo(printable(f"  {name:{width}}  {_cut(_short(_public(value, _size)), _VALUE)}"))
    if len(shown) < table.rows:
        click.echo(f"\n... and {table.rows - len(shown)} more: --limit shows more of them")


def _public(value: Any, binary: Callable[[bytes], str]) -> Any:
    """Return a value without what would grant access in its addresses, and with its bytes as text, at any depth."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bytes):
        return binary(value)
    if isinstance(value, dict):
        return {name: _public(item, binary) for name, item in value.items()}
    return [_public(item, binary) for item in value] if isinstance(value, list | tuple) else value


def _size(value: bytes) -> str:
    return f"{len(value)} bytes"


def _short(value: Any) -> str:
    """Return a value in one line for people; nulls of a struct and most items of a list are left out."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_short(item)}" for name, item in value.items() if item is not None) + "}"
    if isinstance(value, list):
        more = f", ... {len(value)} in all" if len(value) > _ITEMS else ""
        return "[" + ", ".join(_short(item) for item in value[:_ITEMS]) + more + "]"
    if isinstance(value, date):
        return value.isoformat()
    return "null" if value is None else _cut(str(value), _TEXT)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."
