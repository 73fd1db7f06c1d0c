"""Describe assets by the fields of STAC's projection and raster extensions, from the headers of their files.

Tools that read STAC ask for these fields before they open a file, and most record tables lack them. Fields that the
source gives stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.publish.stac import is_stac
from rasteret_assets.schema import ASSETS, STAC_EXTENSIONS, band_column

PROJ_CODE: Final = "proj:code"
PROJ_SHAPE: Final = "proj:shape"
PROJ_TRANSFORM: Final = "proj:transform"
RASTER_BANDS: Final = "raster:bands"

_BAND: Final = pa.struct(
    [("data_type", pa.string()), ("nodata", pa.float64()), ("scale", pa.float64()), ("offset", pa.float64())]
)
#: The fields that are added to an asset, and their types.
FIELDS: Final = {
    PROJ_CODE: pa.string(),
    PROJ_SHAPE: pa.list_(pa.int32()),
    PROJ_TRANSFORM: pa.list_(pa.float64()),
    RASTER_BANDS: pa.list_(_BAND),
}
#: Extensions that items with these fields must name, by the beginning of their address.
_EXTENSIONS: Final = {
    "https://stac-extensions.github.io/projection/": "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/": "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
}


def describe_assets(table: pa.Table, bands: Sequence[str]) -> pa.Table:
    """Add those of :data:`FIELDS` that are missing to the assets that have headers.

    ``raster:bands`` has one object for each band of a file, and a header describes one band, so that it is null for
    files of several bands.

    Args:
        table: joined records.
        bands: whose columns ``{band}_metadata`` the table has.
    """
    position = table.schema.get_field_index(ASSETS)
    if position < 0 or not pa.types.is_struct(table.schema.field(position).type):
        return table
    assets = table.column(position).combine_chunks()
    fields, children = list(assets.type), [pc.struct_field(assets, [index]) for index in range(assets.type.num_fields)]
    for band in bands:
        index = assets.type.get_field_index(band)
        if index >= 0 and pa.types.is_struct(fields[index].type):
            children[index] = _described(children[index], table[band_column(band)].combine_chunks())
            fields[index] = fields[index].with_type(children[index].type)
    whole = pa.StructArray.from_arrays(children, fields=fields, mask=pc.is_null(assets))
    table = table.set_column(position, table.schema.field(position).with_type(whole.type), whole)
    return _with_extensions(table) if is_stac(table.schema) else table


def _described(asset: pa.StructArray, header: pa.StructArray) -> pa.StructArray:
    """Return an asset with its missing fields added; they are null where the record has no header."""
    values = _values(header)
    lacking = [name for name in FIELDS if asset.type.get_field_index(name) < 0]
    fields = [*asset.type, *(pa.field(name, FIELDS[name]) for name in lacking)]
    children = [pc.struct_field(asset, [index]) for index in range(asset.type.num_fields)]
    return pa.StructArray.from_arrays(
        [*children, *(values[name] for name in lacking)], fields=fields, mask=pc.is_null(asset)
    )


def _values(header: pa.StructArray) -> Mapping[str, pa.Array]:
    def field(name: str) -> pa.Array:
        return pc.struct_field(header, [header.type.get_field_index(name)])

    lost = np.asarray(pc.is_null(header))
    epsg = field("epsg")
    code = pc.binary_join_element_wise("EPSG:", epsg.cast(pa.string()), "")
    sizes = [pc.fill_null(field(name), 0).to_numpy(zero_copy_only=False) for name in ("image_height", "image_width")]
    # A header's transform has four numbers: [scale_x, translate_x, scale_y, translate_y].
    four = pc.fill_null(pc.equal(pc.list_value_length(field("transform")), 4), fill_value=False)
    numbers = np.zeros((len(header), 4))
    numbers[np.asarray(four)] = field("transform").filter(four).flatten().to_numpy(zero_copy_only=False).reshape(-1, 4)
    scale_x, x, scale_y, y = numbers.T
    zero = np.zeros(len(header))
    affine = np.column_stack([scale_x, zero, x, zero, scale_y, y])
    dtype = pc.utf8_ltrim(field("dtype"), "<>=|")
    # STAC's names for numpy's short names, which headers of big-endian files have.
    for kind, name in (("u", "uint"), ("i", "int"), ("f", "float")):
        for size in (1, 2, 4, 8):
            dtype = pc.if_else(pc.equal(dtype, f"{kind}{size}"), f"{name}{8 * size}", dtype)
    several = np.asarray(pc.fill_null(pc.greater(field("samples_per_pixel"), 1), fill_value=False))
    band = pa.StructArray.from_arrays(
        [dtype, field("nodata"), field("scale"), field("offset")], fields=list(_BAND)
    )  # fmt: skip
    return {
        PROJ_CODE: pc.if_else(pc.is_null(epsg), pa.scalar(None, pa.string()), code),
        PROJ_SHAPE: _lists(np.column_stack(sizes).astype(np.int32), lost),
        PROJ_TRANSFORM: _lists(affine, lost | ~np.asarray(four)),
        RASTER_BANDS: _of_one(band, lost | several),
    }


def _lists(values: npt.NDArray[Any], missing: npt.NDArray[np.bool_]) -> pa.ListArray:
    """Return rows ``[N, K]`` as lists of K numbers; null where ``missing`` is true."""
    flat = pa.array(values[~missing].ravel())
    lengths = np.where(missing, 0, values.shape[1])
    return pa.ListArray.from_arrays(_ends(lengths), flat, mask=pa.array(missing))


def _of_one(values: pa.Array, missing: npt.NDArray[np.bool_]) -> pa.ListArray:
    """Return each value as a list of one value; null where ``missing`` is true."""
    kept = values.filter(pa.array(~missing))
    return pa.ListArray.from_arrays(_ends(np.where(missing, 0, 1)), kept, mask=pa.array(missing))


def _ends(lengths: npt.NDArray[Any]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())


def _with_extensions(table: pa.Table) -> pa.Table:
    """Return STAC items with the extensions of the added fields named."""
    position = table.schema.get_field_index(STAC_EXTENSIONS)
    if position < 0:
        column = pa.array([list(_EXTENSIONS.values())] * table.num_rows, pa.list_(pa.string()))
        return table.append_column(STAC_EXTENSIONS, column)
    given = table.column(position).combine_chunks()
    # A loop over rows, because no kernel of Arrow compares lists of texts; nearly all rows are equal, so that each
    # different list is completed once.
    named_by_keys: dict[tuple[str, ...] | None, list[str]] = {}
    rows = []
    for row in given.to_pylist():
        key = None if row is None else tuple(row)
        if key not in named_by_keys:
            named = list(row or ())
            missing = (url for start, url in _EXTENSIONS.items() if not any(text.startswith(start) for text in named))
            named_by_keys[key] = [*named, *missing]
        rows.append(named_by_keys[key])
    return table.set_column(position, table.schema.field(position), pa.array(rows, given.type))
