"""Normalize the ``assets`` column of any shape to a struct of structs, and find the assets that are bands.

A band is an asset that holds a raster this package can index. ``band_codes`` chooses bands exactly; otherwise the media
type decides, then the file name's extension, then the role.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.columns.conform import conform
from rasteret_assets.columns.types import is_list, is_text, plain, plain_text, unsized_type
from rasteret_assets.errors import RecordError
from rasteret_assets.schema import BAND_INDEX, HREF
from rasteret_assets.storage.addresses.urls import rewrite_hrefs

#: Type of an asset from a JSON document; all other fields are kept as JSON text in ``properties``.
_JSON_ASSET = pa.struct(
    [(HREF, pa.string()), ("title", pa.string()), ("type", pa.string()), ("roles", pa.list_(pa.string())),
     (BAND_INDEX, pa.string()), ("properties", pa.string())]
)  # fmt: skip
_KEY_FIELDS = ("key", "name", "band", "id")

_RASTER_TYPE = r"(?i)^\s*(image/(tiff|x\.geotiff|geotiff|vnd\.stac\.geotiff)|application/(x-)?geotiff)\b"
_VAGUE_TYPE = r"(?i)^\s*((application|binary)/(octet-stream|x-binary)|image)?\s*(;|$)"
_RASTER_NAME = r"(?i)\.(tiff?|gtiff|cog|btf|tf8)$"
_OTHER_NAME = (
    r"(?i)\.(xml|json|geojson|jpe?g|png|gif|webp|jp2|j2k|svg|pdf|html?|txt|md|csv|parquet|kml|kmz|gpkg|shp|zip|gz|tar|tgz"
    r"|nc|nc4|h5|hdf|hdf5|grib2?|zarr|safe|met|prj|aux|ovr|sha\d*|md5|yaml|yml|vrt|las|laz|bin|log|ang|stac)$"
)
_OTHER_ROLES = frozenset({"thumbnail", "metadata", "tiles", "tilejson", "iso-19115"})


def asset_names(column: pa.Array) -> list[str]:
    """Return the names of the assets in a column: in the order of a struct's fields, or sorted if rows name them.

    Raises:
        RecordError: if the type of the column cannot hold assets.
    """
    column = _usual(column)
    kind = column.type
    if pa.types.is_struct(kind):
        return [child.name for child in kind]
    if pa.types.is_map(kind):
        return sorted(set(pc.unique(_names(column.keys)).to_pylist()))
    if _is_named_list(kind):
        items = column.flatten()
        return sorted({name for name in pc.unique(_names(items.field(_key_field(kind)))).to_pylist() if name})
    if is_text(kind):
        return sorted({name for document in _documents(column) if document for name in document})
    if pa.types.is_null(kind):
        return []
    raise RecordError(f"column 'assets' is {kind}: write a struct, a map, a list of named structs, or JSON text")


def normalize_assets(column: pa.Array, names: Sequence[str], rewrites: Mapping[str, str]) -> tuple[pa.Array, pa.Array]:
    """Return assets as a struct of structs with a rewritten ``href`` each, and a mask of the unreadable rows.

    Args:
        column: struct, map, list of named structs, or JSON text.
        names: fields of the result, which are the same for every partition.
        rewrites: ``{prefix: replacement}`` of hrefs.
    """
    column = _usual(column)
    kind = column.type
    unreadable = pa.array(np.zeros(len(column), bool))
    if is_text(kind):
        documents = _documents(column)
        unreadable = pa.array([d is None and v is not None for d, v in zip(documents, column.to_pylist(), strict=True)])
        fields = {name: _json_field(documents, name) for name in names}
    elif pa.types.is_map(kind):
        fields = _pick(column, _names(column.keys), plain(column.items), names)
    elif _is_named_list(kind):
        items = plain(column.flatten())
        fields = _pick(column, _names(items.field(_key_field(kind))), items, names)
    elif pa.types.is_struct(kind):
        children = {child.name: pc.struct_field(column, [position]) for position, child in enumerate(kind)}
        fields = {name: children[name] for name in names if name in children}
        for name in names:
            fields.setdefault(name, pa.nulls(len(column), pa.struct([(HREF, pa.string())])))
    else:
        fields = {name: pa.nulls(len(column), pa.struct([(HREF, pa.string())])) for name in names}
    made = {name: _with_href(field, rewrites, name) for name, field in fields.items()}
    return _struct(made, pc.is_null(column), len(column)), unreadable


def assets_from_href(hrefs: pa.Array, band_index_map: Mapping[str, int], rewrites: Mapping[str, str]) -> pa.Array:
    """Return the assets of records with one file each, whose samples ``band_index_map`` names; null for a null href.

    Raises:
        RecordError: if ``hrefs`` is not text.
    """
    hrefs = plain_text(hrefs)
    if not (is_text(hrefs.type) or pa.types.is_null(hrefs.type)):
        raise RecordError(f"href_column is {hrefs.type}: addresses are text")
    rewritten = rewrite_hrefs(_trimmed(hrefs.cast(pa.string())), rewrites)
    missing = pc.is_null(rewritten)
    fields = {
        band: pa.StructArray.from_arrays(
            [rewritten, pa.array(np.full(len(hrefs), index, np.int32))], names=[HREF, BAND_INDEX], mask=missing
        )
        for band, index in band_index_map.items()
    }
    return _struct(fields, missing, len(hrefs))


def raster_rows(asset: pa.Array) -> pa.Array:
    """Mark the rows of one asset (struct with ``href``, perhaps ``type`` and ``roles``) that hold a raster to index."""
    names = [child.name for child in asset.type]
    href = plain(asset_field(asset, HREF))
    rows = len(asset)
    media = asset_field(asset, "type") if "type" in names else pa.nulls(rows, pa.string())
    media = plain(media) if is_text(media.type) else pa.nulls(rows, pa.string())
    address = pc.replace_substring_regex(href, r"[?#].*$", "")
    is_tiff, is_vague = (
        _matches(media, _RASTER_TYPE),
        pc.fill_null(pc.match_substring_regex(media, _VAGUE_TYPE), fill_value=True),
    )
    by_name, other_name = _matches(address, _RASTER_NAME), _matches(address, _OTHER_NAME)
    other_role = _has_role(asset, names)
    by_address = pc.or_(by_name, pc.invert(pc.or_(other_name, other_role)))
    chosen = pc.or_(is_tiff, pc.and_(is_vague, by_address))
    return pc.and_(chosen, pc.is_valid(href))


def asset_field(asset: pa.Array, name: str) -> pa.Array:
    """Return one field of a struct array; null where the struct is null."""
    return pc.struct_field(asset, [asset.type.get_field_index(name)])


def _matches(texts: pa.Array, pattern: str) -> pa.Array:
    return pc.fill_null(pc.match_substring_regex(texts, pattern), fill_value=False)


def _has_role(asset: pa.Array, names: list[str]) -> pa.Array:
    result = np.zeros(len(asset), bool)
    if "roles" in names and is_list(asset.type.field("roles").type):
        roles = _usual(asset_field(asset, "roles"))
        parents, values = pc.list_parent_indices(roles), pc.list_flatten(roles)
        if len(values) and is_text(values.type):
            has_other_role = np.asarray(
                pc.fill_null(pc.is_in(values, pa.array(sorted(_OTHER_ROLES))), fill_value=False)
            )
            result[np.asarray(parents)[has_other_role]] = True
    return pa.array(result)


def _with_href(asset: pa.Array, rewrites: Mapping[str, str], name: str) -> pa.Array:
    """Return one asset as a struct whose ``href`` is trimmed and rewritten; blank hrefs become null."""
    kind = asset.type
    if pa.types.is_null(kind):
        return pa.nulls(len(asset), pa.struct([(HREF, pa.string())]))
    if is_text(kind):
        href = rewrite_hrefs(_trimmed(asset.cast(pa.string())), rewrites)
        return pa.StructArray.from_arrays([href], names=[HREF], mask=pc.is_null(asset))
    if not pa.types.is_struct(kind):
        raise RecordError(f"asset {name!r} is {kind}: write its href, or a struct with a field 'href'")
    names = [child.name for child in kind]
    children = [pc.struct_field(asset, [position]) for position in range(len(names))]
    if HREF not in names:
        names, children = [HREF, *names], [pa.nulls(len(asset), pa.string()), *children]
    position = names.index(HREF)
    children[position] = rewrite_hrefs(_trimmed(children[position].cast(pa.string())), rewrites)
    return pa.StructArray.from_arrays(children, names=names, mask=pc.is_null(asset))


def _trimmed(hrefs: pa.Array) -> pa.Array:
    text = pc.utf8_trim_whitespace(hrefs)
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def _struct(fields: Mapping[str, pa.Array], missing: pa.Array, rows: int) -> pa.Array:
    if not fields:
        return pa.nulls(rows)  # Parquet has no struct without fields
    return pa.StructArray.from_arrays(list(fields.values()), names=list(fields), mask=missing)


def _names(keys: pa.Array) -> pa.Array:
    texts = plain_text(keys)
    if not (is_text(texts.type) or pa.types.is_null(texts.type)):
        raise RecordError(f"column 'assets' names its assets by {texts.type}: their names are text")
    return texts


def _pick(column: pa.Array, keys: pa.Array, items: pa.Array, names: Sequence[str]) -> dict[str, pa.Array]:
    """Return, by name, the item of each row of a map or a list of named structs; the last of several items counts."""
    offsets = np.asarray(column.offsets)
    lengths = np.diff(offsets)
    if pa.types.is_map(column.type):
        keys, items = (
            keys.slice(offsets[0], offsets[-1] - offsets[0]),
            items.slice(offsets[0], offsets[-1] - offsets[0]),
        )
    else:
        # Items below a null list are not in the flattened list, whereas those below a null map are in keys and items.
        lengths = np.where(np.asarray(pc.is_valid(column)), lengths, 0)
    parents = np.repeat(np.arange(len(column)), lengths)
    picked = {}
    for name in names:
        hits = np.flatnonzero(np.asarray(pc.fill_null(pc.equal(keys, name), fill_value=False)))
        index = np.full(len(column), -1, np.int64)
        index[parents[hits]] = hits
        picked[name] = items.take(pa.array(index, mask=index < 0))
    return picked


def _documents(column: pa.Array) -> list[dict[str, Any] | None]:
    """Return the asset objects of JSON text; None where the row is null or not an object."""
    # A Python loop, because Arrow has no kernel for JSON of varying keys.
    return [_document(text) for text in column.to_pylist()]


def _document(text: str | None) -> dict[str, Any] | None:
    try:
        value = json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    # JSON may spell halves of surrogate pairs (RFC 8259, 8.2), which UTF-8 cannot hold.
    halves = "\\ud" in str(text).lower()
    return dict(json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))) if halves else value


def _json_field(documents: Iterable[dict[str, Any] | None], name: str) -> pa.Array:
    return pa.array([_json_asset((document or {}).get(name)) for document in documents], _JSON_ASSET)


def _json_asset(value: Any) -> dict[str, Any] | None:
    if isinstance(value, str):
        return {HREF: value}
    if not isinstance(value, dict):
        return None
    rest = dict(value)
    index, roles = rest.pop(BAND_INDEX, None), rest.pop("roles", None)
    texts = {key: found for key in (HREF, "title", "type") if isinstance(found := rest.pop(key, None), str)}
    return {
        **texts,
        "roles": [str(role) for role in roles] if isinstance(roles, list) else None,
        BAND_INDEX: None if index is None else str(index),
        "properties": json.dumps(rest, sort_keys=True) if rest else None,
    }


def _usual(column: pa.Array) -> pa.Array:
    """Return a column of small types whose lists have any length, with UTF-8 bytes as text."""
    column = plain_text(column.storage if isinstance(column.type, pa.ExtensionType) else column)
    return conform(column, unsized_type(column.type))


def _is_named_list(kind: pa.DataType) -> bool:
    return bool(is_list(kind) and _key_field(kind))


def _key_field(kind: pa.DataType) -> str | None:
    value = kind.value_type
    names = {child.name for child in value} if pa.types.is_struct(value) else set()
    return next((name for name in _KEY_FIELDS if name in names), None)
