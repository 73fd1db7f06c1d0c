"""``rasteret-assets info``: what a published collection holds."""

from __future__ import annotations

import click

from rasteret_assets.cli.common import in_one_line, json_option, print_json, published_place

# ruff: noqa: PLC0415  (see common.py)


@click.command()
@click.argument("path")
@json_option
@in_one_line
def info(path: str, *, as_json: bool) -> None:
    """Say what a published collection holds.

    PATH is the folder or URI a collection is published in (..._records), or the YAML file or name of a declared one.
    """
    from rasteret_assets.collection import load

    place = published_place(path)
    collection = load(place)
    summary = collection.summary
    document = {
        "path": place,
        "records": summary.rows,
        "bands": collection.bands,
        "bounds": summary.bounds,
        "crs": list(summary.crs),
        "dates": summary.dates,
        "columns": {column.name: str(column.type) for column in collection.schema},
    }
    if as_json:
        print_json(document)
        return
    click.echo(repr(collection))
    for name in ("path", "records", "bands", "bounds", "crs"):
        click.echo(f"{name + ':':10} {_text(document[name])}")
    if summary.dates:
        click.echo(f"{'dates:':10} {summary.dates[0]:%Y-%m-%d %H:%M} to {summary.dates[1]:%Y-%m-%d %H:%M} UTC")
    click.echo(f"{'columns:':10} {', '.join(column.name for column in collection.schema)}")


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(f"{item:.6g}" if isinstance(item, float) else str(item) for item in value) or "none"
    return "none" if value is None else str(value)
