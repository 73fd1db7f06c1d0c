"""Scale and offset of a band as its record's STAC states them, for files that state none.

Three spellings are read, the one nearest to the band first: ``raster:bands`` (raster extension 1.x: a list with one
object per band of the file, of which ``scale`` and ``offset`` count), ``bands`` (STAC 1.1 and raster extension 2.0:
likewise, ``raster:scale`` and ``raster:offset``), and the same two names in the asset itself, for all of its bands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import pyarrow as pa

from rasteret_assets.columns.types import is_list, is_text

Scaling = tuple[float | None, float | None]
"""Scale and offset; None where not stated."""

_NAMES: Final = ("raster:scale", "raster:offset")
#: Fields with one object per band, and what scale and offset are called in these.
_LISTS: Final = {"raster:bands": ("scale", "offset"), "bands": _NAMES}
#: Where the rest of an asset that came as JSON is kept, as JSON.
_PROPERTIES: Final = "properties"
#: All fields of an asset that may state a scale or an offset.
SCALING_FIELDS: Final = (*_LISTS, *_NAMES, _PROPERTIES)


def scaling_fields(asset: pa.DataType) -> list[str]:
    """Those of :data:`SCALING_FIELDS` that an asset has, and that can hold a number for its band.

    Args:
        asset: type of the asset, a struct.
    """
    return [field.name for field in asset if _may_state(field)]


def _may_state(field: pa.Field) -> bool:
    kind = field.type
    if field.name in _LISTS:
        item = kind.value_type if is_list(kind) else pa.null()
        return pa.types.is_struct(item) and any(child.name in _LISTS[field.name] for child in item)
    return field.name in _NAMES or (field.name == _PROPERTIES and is_text(kind))


def asset_scaling(asset: Mapping[str, Any], band_index: int) -> Scaling:
    """Scale and offset of a band.

    Args:
        asset: what it states, as Python objects.
        band_index: position of the band in its file, counted from 0.
    """
    for name, keys in _LISTS.items():
        bands = asset.get(name)
        if isinstance(bands, list) and band_index < len(bands) and (found := _stated(bands[band_index], keys)):
            return found
    if found := _stated(asset, _NAMES):
        return found
    rest = _document(asset.get(_PROPERTIES))
    return asset_scaling(rest, band_index) if rest else (None, None)


def _document(text: Any) -> dict[str, Any] | None:
    """What is left of an asset that came as JSON, without a further document in it."""
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return {key: found for key, found in value.items() if key != _PROPERTIES} if isinstance(value, dict) else None


def _stated(values: Any, keys: tuple[str, str]) -> Scaling | None:
    """Two numbers by name; None where there is neither."""
    if not isinstance(values, Mapping):
        return None
    scale, offset = (_number(values.get(key)) for key in keys)
    return None if scale is None and offset is None else (scale, offset)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of JSON
        return None
