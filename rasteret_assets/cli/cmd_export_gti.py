"""``rasteret-assets export-gti``: a published collection as a tile index for GDAL and QGIS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
import yaml

from rasteret_assets.cli import library
from rasteret_assets.cli.common import in_one_line, json_option, print_json, print_table
from rasteret_assets.cli.location import Location, located

if TYPE_CHECKING:
    from rasteret_assets.collection.collection import Collection

#: Operators that may stand between a column and a value.
_OPERATORS = ("=", "==", "!=", "<", "<=", ">", ">=", "in", "not in")


@click.command("export-gti")
@click.argument("collection")
@click.argument("path", required=False)
@located
@click.option("--bands", "-b", metavar="BANDS", help="Bands, such as B04,B08.  [default: all of the collection]")
@click.option(
    "--where", "conditions", nargs=3, multiple=True, metavar="COLUMN OP VALUE",
    help="Only records that meet a condition, such as: --where eo:cloud_cover '<' 20. OP is ==, !=, <, <=, >, >=, in "
    "or 'not in'. VALUE is YAML, [a, b] is a list. May be given several times.",
)  # fmt: skip
@click.option("--bbox", nargs=4, type=float, metavar="W S E N", help="Only records that meet this box of lon/lat.")
@click.option("--dates", metavar="RANGE", help="Only records of these dates, such as 2024-05 or 2024-05-01/2024-05-10.")
@json_option
@in_one_line
def export_gti(
    collection: str, *, path: str | None, location: Location, bands: str | None,
    conditions: Sequence[tuple[str, str, str]], bbox: tuple[float, float, float, float] | None, dates: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Write a tile index that GDAL and QGIS open.

    The index has a layer for each band and CRS, which GDAL and QGIS show as a mosaic. It is made from the headers in
    the collection: no raster is opened. COLLECTION is the folder or URI a collection is published in (..._records), or
    the YAML file or name of a declared one. PATH ends with .gti.gpkg or .gti.fgb; without it, the index is written to
    NAME.gti.gpkg.
    """
    place = location.published(collection)
    whole = library.load(place, filesystem=location.filesystem_of(place))
    asked = [band.strip() for band in bands.split(",")] if bands is not None else None
    file = path or f"{whole.name}.gti.gpkg"
    layers = _chosen(whole, conditions, bbox, dates).to_gti(file, asked)
    if as_json:
        print_json({"path": file, "layers": [asdict(layer) for layer in layers]})
        return
    print_table(
        ("layer", "band", "records", "type", "nodata", "pixel", "columns", "rows", "resampled"),
        [
            (
                layer.name, layer.band, layer.records, layer.dtype, "" if layer.nodata is None else str(layer.nodata),
                " x ".join(f"{side:.6g}" for side in layer.resolution), *layer.size, layer.resampled,
            )
            for layer in layers
        ],
    )  # fmt: skip
    click.echo(f"written to {file}")


def _chosen(
    collection: Collection, conditions: Sequence[tuple[str, str, str]],
    bbox: tuple[float, float, float, float] | None, dates: str | None,
) -> Collection:  # fmt: skip
    """Return the records that the options ask for."""
    found = collection.subset(bbox=bbox, date_range=dates)
    for column, operator, text in conditions:
        if column not in collection.schema.names:
            raise click.UsageError(
                f"--where {column}: the collection has no such column; rasteret-assets show lists its columns"
            )
        if operator not in _OPERATORS:
            raise click.UsageError(f"--where {column} {operator}: write one of {' '.join(_OPERATORS)}")
        try:
            expression = library.filters_to_expression([(column, operator, _value(text))])
        except (ValueError, TypeError) as error:
            raise click.UsageError(f"--where {column} {operator} {text}: {error}") from error
        found = found.where(expression)
    return found


def _value(text: str) -> Any:
    """Read a value as YAML, as it would stand in a declaration: 20, text, [a, b], 2024-05-01."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise click.UsageError(f"--where ... {text}: {error}") from error
