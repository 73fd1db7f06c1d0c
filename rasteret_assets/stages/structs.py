"""Parsed headers as Arrow structs: the tile tables stay numpy buffers, and no object is made per tile."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from operator import attrgetter

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.schema import BAND_INDEX, BAND_STRUCT, OVERVIEW_STRUCT
from rasteret_assets.tiff import TiffHeader


def header_structs(headers: Sequence[TiffHeader | None], band_indices: Sequence[int]) -> pa.StructArray:
    """Headers as structs of :data:`~rasteret_assets.schema.BAND_STRUCT`; tile tables stay numpy buffers."""
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
        column = pa.array(list(map(attrgetter(attribute), present)), BAND_STRUCT.field(name).type)
        columns[name] = column if place is None else column.take(place)
    columns["jpeg_tables"] = pa.array([None if h is None else _text(h.jpeg_tables) for h in headers], pa.string())
    columns["tile_offsets"] = _lists([None if t is None else t[0] for t in tiles])
    columns["tile_byte_counts"] = _lists([None if t is None else t[1] for t in tiles])
    columns["overviews"] = _overviews(headers, band_indices)
    columns[BAND_INDEX] = pa.array(
        [None if h is None else i for h, i in zip(headers, band_indices, strict=True)], pa.int32()
    )
    missing = pa.array([h is None for h in headers], pa.bool_())
    return pa.StructArray.from_arrays(
        [columns[child.name] for child in BAND_STRUCT], fields=list(BAND_STRUCT), mask=missing
    )


def _overviews(headers: Sequence[TiffHeader | None], band_indices: Sequence[int]) -> pa.ListArray:
    """The overviews of each header; null where it has none."""
    counts = np.array([0 if h is None else len(h.overviews) for h in headers], np.int64)
    pairs = [(o, h, i) for h, i in zip(headers, band_indices, strict=True) if h is not None for o in h.overviews]
    tiles = [h.band_tiles(i, o) for o, h, i in pairs]
    columns = {
        "image_width": pa.array([o.width for o, _, _ in pairs], pa.int32()),
        "image_height": pa.array([o.height for o, _, _ in pairs], pa.int32()),
        "tile_width": pa.array([o.tile_width for o, _, _ in pairs], pa.int32()),
        "tile_height": pa.array([o.tile_height for o, _, _ in pairs], pa.int32()),
        "tile_offsets": _lists([offsets for offsets, _ in tiles]),
        "tile_byte_counts": _lists([sizes for _, sizes in tiles]),
        "jpeg_tables": pa.array([_text(o.jpeg_tables) for o, _, _ in pairs], pa.string()),
    }
    values = pa.StructArray.from_arrays(
        [columns[child.name] for child in OVERVIEW_STRUCT], fields=list(OVERVIEW_STRUCT)
    )
    starts = pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
    return pa.ListArray.from_arrays(starts, values, mask=pa.array(counts == 0))


def _text(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def _places(headers: Sequence[TiffHeader | None]) -> pa.Array:
    """Of each header its position among those that are present; null where it is missing."""
    missing = np.array([h is None for h in headers])
    return pa.array(np.cumsum(~missing) - 1, mask=missing)


def _lists(arrays: Sequence[npt.NDArray[np.integer] | None]) -> pa.ListArray:
    lengths = np.array([0 if array is None else len(array) for array in arrays], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    present = [array for array in arrays if array is not None]
    # The one copy of the tables: widened to 64 bits on their way into the Arrow buffer.
    values = np.concatenate([np.zeros(0, np.int64), *present], dtype=np.int64, casting="unsafe")
    mask = pa.array([array is None for array in arrays], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, pa.int64()), mask=mask)
