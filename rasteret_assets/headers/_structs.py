"""Convert parsed headers to Arrow structs; tile tables stay numpy buffers, so that no object is made per tile.

Headers of one family are converted together: values that they share are made once and repeated, and numpy cuts the
tables of all of them out of their bytes at once.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence
from operator import attrgetter

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.schema import BAND_INDEX, HEADER_STRUCT, OVERVIEW_STRUCT, OVERVIEWS, TILE_TABLES
from rasteret_assets.tiff import FamilyMember, HeaderFamily, StackedTables, TiffHeader
from rasteret_assets.tiff.transform import tied_transforms

Header = TiffHeader | FamilyMember | None


def header_structs(headers: Sequence[Header], band_indices: Sequence[int]) -> pa.StructArray:
    """Return headers as structs of :data:`~rasteret_assets.schema.HEADER_STRUCT`; null for None.

    Args:
        headers: N headers.
        band_indices: for each header the 0-based sample whose tables are wanted.
    """
    alone: list[TiffHeader | None] = []
    rows: list[int] = []
    together: dict[tuple[HeaderFamily, int], tuple[list[FamilyMember], list[int]]] = {}
    family, last = None, -1
    for row, (header, index) in enumerate(zip(headers, band_indices, strict=True)):
        if isinstance(header, FamilyMember):
            if header.family is not family or index != last:
                family, last = header.family, index
                members, places = together.setdefault((family, family.band_part(index)), ([], []))
            members.append(header)
            places.append(row)
        else:
            alone.append(header)
            rows.append(row)
    if len(together) == 1 and not any(alone):
        (((family, part), (members, places)),) = together.items()
        found = _together(family, part, members, [band_indices[row] for row in places])
        return found if not alone else _spread(found, places, len(headers))
    parts = [_single(alone, [band_indices[row] for row in rows])] if alone or not together else []
    for (family, part), (members, places) in together.items():
        parts.append(_together(family, part, members, [band_indices[row] for row in places]))
        rows += places
    if len(parts) == 1:
        return parts[0]
    return pa.concat_arrays(parts).take(pa.array(np.argsort(rows, kind="stable")))


def _spread(structs: pa.StructArray, places: Sequence[int], count: int) -> pa.StructArray:
    """Return ``count`` rows with structs at ``places`` and nulls elsewhere; no tile table is copied."""
    is_there = np.zeros(count, bool)
    is_there[np.asarray(places)] = True
    numbers = pa.array(np.cumsum(is_there) - 1, mask=~is_there)
    # A null list starts and ends at the end of the list before it.
    bounds = np.concatenate([[0], np.cumsum(is_there)])
    columns = []
    for child in structs.type:
        column = structs.field(child.name)
        if pa.types.is_list(child.type) and not column.null_count:
            ends = pa.array(np.asarray(column.offsets)[bounds], pa.int32())
            columns.append(pa.ListArray.from_arrays(ends, column.values, type=child.type, mask=pa.array(~is_there)))
        else:
            columns.append(column.take(numbers))
    return pa.StructArray.from_arrays(columns, fields=list(structs.type), mask=pa.array(~is_there))


def _together(
    family: HeaderFamily, part: int, members: Sequence[FamilyMember], band_indices: Sequence[int]
) -> pa.StructArray:
    """Return structs of the members of one family, for bands that lie in one part of its tables."""
    kinds = list(zip([id(member.shared) for member in members], band_indices, strict=True))
    number_of = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    codes = np.array([number_of[kind] for kind in kinds])
    firsts = np.unique(codes, return_index=True)[1]
    models = _single([members[row].header() for row in firsts], [band_indices[row] for row in firsts])
    tables = family.stack_tables(members, part)
    # Without the columns that are replaced below, because tables are nearly all of a header.
    columns = _repeated(models, codes, {*TILE_TABLES, *((OVERVIEWS,) if tables.overview_tiles else ())})
    columns |= dict(zip(TILE_TABLES, map(_equal_lists, tables.image), strict=True))
    shared = [members[row].shared for row in firsts]
    steps, is_point = np.array([s.steps for s in shared]), np.array([s.geo.pixel_is_point for s in shared])
    transforms = tied_transforms(steps[codes], tables.tiepoints, is_point[codes])
    for name, values in (("transform", transforms), ("tiepoint", tables.tiepoints)):
        columns[name] = _equal_lists(values).cast(HEADER_STRUCT.field(name).type)
    if family.metadata is not None:
        scalings = [member.scaling for member in members]
        columns["scale"] = _of_bands([scaling.scales for scaling in scalings], band_indices)
        columns["offset"] = _of_bands([scaling.offsets for scaling in scalings], band_indices)
    if tables.overview_tiles:
        columns[OVERVIEWS] = _overviews_together(models.field(OVERVIEWS)[0].values, tables)
    return pa.StructArray.from_arrays([columns[child.name] for child in HEADER_STRUCT], fields=list(HEADER_STRUCT))


def _overviews_together(model: pa.StructArray, tables: StackedTables) -> pa.ListArray:
    """Return the overviews of N headers, given those of one header and the tables of each."""
    count, rows = len(tables.overview_tiles), len(tables.overviews[0])
    columns = _repeated(model, np.tile(np.arange(count), rows), TILE_TABLES)
    lengths = np.tile(tables.overview_tiles, rows)
    columns |= {
        name: _list_array(lengths, values.ravel()) for name, values in zip(TILE_TABLES, tables.overviews, strict=True)
    }
    values = pa.StructArray.from_arrays(
        [columns[child.name] for child in OVERVIEW_STRUCT], fields=list(OVERVIEW_STRUCT)
    )
    return _list_array(np.full(rows, count), values)


def _repeated(structs: pa.StructArray, rows: npt.ArrayLike, left_out: Collection[str]) -> dict[str, pa.Array]:
    """Return the fields of some rows of structs, by name, without the fields ``left_out``."""
    chosen = pa.array(rows, pa.int64())
    return {child.name: structs.field(child.name).take(chosen) for child in structs.type if child.name not in left_out}


def _equal_lists(values: npt.NDArray[np.generic]) -> pa.ListArray:
    """Return a list for each row of ``values`` ``[N, length]``, which are not copied."""
    return _list_array(np.full(len(values), values.shape[1]), values.ravel())


def _list_array(lengths: npt.NDArray[np.int64], values: npt.NDArray[np.generic] | pa.Array) -> pa.ListArray:
    ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values))


def _single(headers: Sequence[TiffHeader | None], band_indices: Sequence[int]) -> pa.StructArray:
    """Return structs of headers that were parsed one by one."""
    tiles = [None if h is None else h.band_tiles(i) for h, i in zip(headers, band_indices, strict=True)]
    scalars = {
        "image_width": "width", "image_height": "height", "tile_width": "tile_width", "tile_height": "tile_height",
        "dtype": "dtype_name", "predictor": "predictor", "compression": "compression", "nodata": "nodata",
        "samples_per_pixel": "samples_per_pixel", "planar_configuration": "planar_configuration",
        "photometric": "photometric", "epsg": "epsg", "crs": "crs", "nodata_text": "nodata_text",
        "transform": "transform", "pixel_scale": "pixel_scale", "tiepoint": "tiepoint",
        "extra_samples": "extra_samples",
    }  # fmt: skip
    present = [h for h in headers if h is not None]
    place = None if len(present) == len(headers) else _places(headers)
    columns = {}
    for name, attribute in scalars.items():
        column = pa.array(list(map(attrgetter(attribute), present)), HEADER_STRUCT.field(name).type)
        columns[name] = column if place is None else column.take(place)
    columns["jpeg_tables"] = pa.array([None if h is None else _text(h.jpeg_tables) for h in headers], pa.string())
    columns["scale"] = _of_bands([() if h is None else h.scales for h in headers], band_indices)
    columns["offset"] = _of_bands([() if h is None else h.offsets for h in headers], band_indices)
    for position, name in enumerate(TILE_TABLES):
        columns[name] = _lists([None if pair is None else pair[position] for pair in tiles])
    columns[OVERVIEWS] = _overviews(headers, band_indices)
    columns[BAND_INDEX] = pa.array(
        [None if h is None else i for h, i in zip(headers, band_indices, strict=True)], pa.int32()
    )
    missing = pa.array([h is None for h in headers], pa.bool_())
    return pa.StructArray.from_arrays(
        [columns[child.name] for child in HEADER_STRUCT], fields=list(HEADER_STRUCT), mask=missing
    )


def _of_bands(values: Sequence[Sequence[float | None]], band_indices: Sequence[int]) -> pa.DoubleArray:
    """Return the value of one band of each file; null where the band, or the whole file, has no value."""
    return pa.array([each[i] if each else None for each, i in zip(values, band_indices, strict=True)], pa.float64())


def _overviews(headers: Sequence[TiffHeader | None], band_indices: Sequence[int]) -> pa.ListArray:
    """Return the overviews and masks of each header; null where a header has neither."""
    of_each = [() if h is None else h.pages(i) for h, i in zip(headers, band_indices, strict=True)]
    counts = np.array([len(pages) for pages in of_each], np.int64)
    pages = [page for pages in of_each for page in pages]
    columns = {
        "image_width": pa.array([page.width for page in pages], pa.int32()),
        "image_height": pa.array([page.height for page in pages], pa.int32()),
        "tile_width": pa.array([page.tile_width for page in pages], pa.int32()),
        "tile_height": pa.array([page.tile_height for page in pages], pa.int32()),
        "tile_offsets": _lists([page.tile_offsets for page in pages]),
        "tile_byte_counts": _lists([page.tile_byte_counts for page in pages]),
        "jpeg_tables": pa.array([_text(page.jpeg_tables) for page in pages], pa.string()),
        "mask_bits": pa.array([page.mask_bits for page in pages], pa.int32()),
        "compression": pa.array([page.compression for page in pages], pa.int32()),
    }
    values = pa.StructArray.from_arrays(
        [columns[child.name] for child in OVERVIEW_STRUCT], fields=list(OVERVIEW_STRUCT)
    )
    starts = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    return pa.ListArray.from_arrays(starts, values, mask=pa.array(counts == 0))


def _text(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def _places(headers: Sequence[TiffHeader | None]) -> pa.Array:
    """Return the position of each header among those that are not None; null for None."""
    missing = np.array([h is None for h in headers])
    return pa.array(np.cumsum(~missing) - 1, mask=missing)


def _lists(arrays: Sequence[npt.NDArray[np.integer] | None]) -> pa.ListArray:
    lengths = np.array([0 if array is None else len(array) for array in arrays], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    present = [array for array in arrays if array is not None]
    # The only copy of the tables, which are widened to 64 bits on their way into the Arrow buffer.
    values = np.concatenate([np.zeros(0, np.int64), *present], dtype=np.int64, casting="unsafe")
    mask = pa.array([array is None for array in arrays], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, pa.int64()), mask=mask)
