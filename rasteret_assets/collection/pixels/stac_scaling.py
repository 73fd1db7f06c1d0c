"""Read scale and offset of a band from its record's STAC, for files that do not state them.

Three spellings are read, the nearest to the band first: ``raster:bands`` (raster extension 1.x: a list with an object
for each band of the file, with ``scale`` and ``offset``), ``bands`` (STAC 1.1 and raster extension 2.0: a list with
``raster:scale`` and ``raster:offset``), and these two names in the asset itself, for all of its bands.
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
#: Fields with an object for each band, and the names of scale and offset in the objects.
_LISTS: Final = {"raster:bands": ("scale", "offset"), "bands": _NAMES}
#: Field with other properties of an asset that came as JSON, as JSON.
_PROPERTIES: Final = "properties"
#: All fields of an asset that may state a scale or an offset.
SCALING_FIELDS: Final = (*_LISTS, *_NAMES, _PROPERTIES)


def scaling_fields(asset: pa.DataType) -> list[str]:
    """Return the :data:`SCALING_FIELDS` of an asset that can hold a number for its band.

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
    """Return scale and offset of a band, from the nearest of the three spellings; (None, None) if none is there.

    Args:
        asset: fields of the asset, as Python objects.
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


def _document(text: object) -> dict[str, Any] | None:
    """Return the other properties of an asset that came as JSON, without a further document in them."""
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return {key: found for key, found in value.items() if key != _PROPERTIES} if isinstance(value, dict) else None


def _stated(values: object, keys: tuple[str, str]) -> Scaling | None:
    """Return two numbers by their names; None if neither is stated."""
    if not isinstance(values, Mapping):
        return None
    scale, offset = (_number(values.get(key)) for key in keys)
    return None if scale is None and offset is None else (scale, offset)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of JSON that no float holds
        return None
