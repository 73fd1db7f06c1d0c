"""Records as a GDAL tile index (the GTI driver), which GDAL, rasterio and QGIS open as a mosaic.

A layer for each band and CRS, and of each the grid, type, nodata and order that the driver would open files to learn:
they come from the headers in the index. See https://gdal.org/drivers/raster/gti.html for the metadata items of a layer.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from rasteret_assets.collection.extras import optional
from rasteret_assets.collection.formats.tile_index.gti_layers import TileIndexLayer, layers_of
from rasteret_assets.collection.pixels.record_table import RecordTable, checked_bands
from rasteret_assets.errors import SpecError
from rasteret_assets.storage.whole_files import naming_target, whole_file

_log = logging.getLogger(__name__)

#: Suffixes by which GDAL recognizes a tile index, and the driver that writes each.
DRIVERS: Final = {".gti.gpkg": "GPKG", ".gti.fgb": "FlatGeobuf"}
#: Suffix of the folder that holds a file for each layer.
DOORS_SUFFIX: Final = "_layers"
#: Elements, in the file of a layer, of the metadata items of the mosaic and of its band.
_ELEMENTS: Final = {
    "LOCATION_FIELD": "LocationField", "SORT_FIELD": "SortField", "SORT_FIELD_ASC": "SortFieldAsc", "RESX": "ResX",
    "RESY": "ResY", "GEOTRANSFORM": "GeoTransform", "XSIZE": "XSize", "YSIZE": "YSize", "BLOCKXSIZE": "BlockXSize",
    "BLOCKYSIZE": "BlockYSize", "RESAMPLING": "Resampling", "MASK_BAND": "MaskBand",
}  # fmt: skip
_BAND_ELEMENTS: Final = {
    "BAND_1_OFFSET": "Offset", "BAND_1_SCALE": "Scale", "NODATA": "NoDataValue", "COLOR_INTERPRETATION": "ColorInterp",
}  # fmt: skip


def write_tile_index(
    collection: RecordTable, path: str | Path, bands: str | Sequence[str] | None
) -> list[TileIndexLayer]:
    """Write a tile index; arguments, result and errors as ``Collection.to_gti`` says."""
    file = Path(path)
    driver = next((name for suffix, name in DRIVERS.items() if file.name.lower().endswith(suffix)), None)
    if driver is None or "://" in str(path):
        raise SpecError(f"{str(path)!r} must be a file on a disk whose name ends with {' or '.join(DRIVERS)}")
    pyogrio = optional("pyogrio", extra="gti", purpose="a tile index")
    names = checked_bands(collection, collection.bands if bands is None else bands)
    layers: list[TileIndexLayer] = []
    doors: list[tuple[TileIndexLayer, dict[str, str]]] = []
    with whole_file(file) as beside:
        for layer, metadata, table in layers_of(collection, names, is_chosen=bands is not None):
            if layers and driver != "GPKG":
                raise SpecError(
                    f"{file.name} holds one layer, but there are several (a layer for each band and CRS, such as "
                    f"{layers[0].name} and {layer.name}): name one band, or write a .gti.gpkg"
                )
            pyogrio.write_arrow(
                table, beside, layer=layer.name, driver=driver, geometry_name="geometry", geometry_type="Polygon",
                crs=layer.crs, layer_metadata=metadata,
                dataset_metadata=None if layers or driver != "GPKG" else {"TILE_INDEX_LAYER": layer.name},
            )  # fmt: skip
            layers.append(layer)
            doors.append((layer, metadata))
    if driver == "GPKG":
        _write_doors(file, doors)
    return layers


def _write_doors(file: Path, layers: Sequence[tuple[TileIndexLayer, Mapping[str, str]]]) -> None:
    """Write the small files that each open one layer of an index, for programs that ask for no layer.

    Args:
        file: the index; the files lie in a folder beside it, and those of an earlier index go.
        layers: with their metadata, which the driver does not look for in the index where such a file leads there.
    """
    folder = file.with_name(file.name[: -len(".gti.gpkg")] + DOORS_SUFFIX)
    with naming_target(folder):
        folder.mkdir(exist_ok=True)
    written = set()
    for layer, items in layers:
        door = folder / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', layer.name)}.gti"
        with whole_file(door) as beside:
            beside.write_bytes(_door(file, layer, items))
        written.add(door)
    for door in set(folder.glob("*.gti")) - written:
        door.unlink()


def _door(file: Path, layer: TileIndexLayer, items: Mapping[str, str]) -> bytes:
    root = Element("GDALTileIndexDataset")
    # Absolute, because GDAL resolves a relative path from its working directory.
    for name, text in (("IndexDataset", str(file.absolute())), ("IndexLayer", layer.name)):
        SubElement(root, name).text = text
    for item, name in _ELEMENTS.items():
        if item in items:
            SubElement(root, name).text = items[item]
    band = SubElement(root, "Band", band="1", dataType=items["DATA_TYPE"])
    SubElement(band, "Description").text = layer.band
    for item, name in _BAND_ELEMENTS.items():
        if item in items:
            SubElement(band, name).text = items[item]
    indent(root)
    return bytes(tostring(root, encoding="utf-8"))
