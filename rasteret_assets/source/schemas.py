"""Unite the schemas of a record table's files, which may differ: columns are added later, types are widened."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa

from rasteret_assets.columns.types import is_list, small_type
from rasteret_assets.errors import SourceError
from rasteret_assets.schema import GEO_KEY

_EXTENSION_NAME, _EXTENSION_METADATA = b"ARROW:extension:name", b"ARROW:extension:metadata"


def reduced(schema: pa.Schema) -> pa.Schema:
    """Return the parts of a file's schema that decide how its rows are read.

    The parts are names, types, extensions, and the GeoParquet footer without extents.

    Everything else differs from file to file of one table and says nothing of a record. Geometry is an extension type
    only where somebody has registered GeoArrow's types; its name and CRS go into the metadata of the field, where they
    are found otherwise.
    """
    metadata = schema.metadata or {}
    geo = {GEO_KEY: _without_extents(metadata[GEO_KEY])} if GEO_KEY in metadata else None
    return pa.schema([_described(field) for field in schema], geo)


def unite_schemas(
    label: str, schemas: Sequence[pa.Schema], geometry: str | None = None, instants: Collection[str] = ()
) -> pa.Schema:
    """Return the schema that rows of all files are brought to: columns and struct fields by name.

    Text, bytes and lists are of the small types (:func:`~rasteret_assets.columns.types.small_type`) and every field may
    be null, whatever a writer chose or declared. Numbers are widened. Where units of time differ, the unit is
    microseconds, which hold the years 1 to 9999 as nanoseconds do not. A dictionary stays one where all files have it.

    Args:
        label: of the source, for messages.
        schemas: of its files, each once.
        geometry: column of the footprints, which is binary where its types cannot be united.
        instants: columns of instants, which are in UTC where a file states no zone (as INT96 never does).

    Raises:
        SourceError: if the types of a column cannot be united.
    """
    kinds: dict[str, list[pa.DataType]] = {}
    stated: dict[str, dict[bytes, bytes] | None] = {}
    for schema in schemas:
        for field in schema:
            found = kinds.setdefault(field.name, [])
            kind = _scanned(field.type)
            if kind not in found:
                found.append(kind)
            stated.setdefault(field.name, field.metadata)
    # Two columns of one name stay two: whoever wants them is told.
    doubled = {name for schema in schemas for name, times in Counter(schema.names).items() if times > 1}
    fields: list[pa.Field] = []
    for name, found in kinds.items():
        try:
            kind = found[0] if len(found) == 1 else _united(name, found, is_utc=name in instants)
        except pa.ArrowException as error:
            if name != geometry:
                raise SourceError(
                    f"{label}: its files do not fit together: column {name!r} is {' and '.join(map(str, found[:2]))}; "
                    "cast it in one of them, or leave it out with columns="
                ) from error
            kind = pa.binary()
        fields += [pa.field(name, kind, metadata=stated[name])] * (2 if name in doubled else 1)
    return pa.schema(fields, schemas[0].metadata)


def _scanned(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.ExtensionType):
        # JSON is read as the text it is.
        return small_type(kind.storage_type) if kind.extension_name == "arrow.json" else kind
    if pa.types.is_dictionary(kind):
        return pa.dictionary(kind.index_type, small_type(kind.value_type), kind.ordered)
    return small_type(kind)


def _united(name: str, kinds: Sequence[pa.DataType], *, is_utc: bool) -> pa.DataType:
    plain = [_in_microseconds(small_type(_storage(kind))) for kind in kinds]
    if is_utc:
        plain = [pa.timestamp("us", "UTC") if pa.types.is_timestamp(kind) else kind for kind in plain]
    return pa.unify_schemas(
        [pa.schema([pa.field(name, kind)]) for kind in plain], promote_options="permissive"
    ).field(0).type  # fmt: skip


def _storage(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.ExtensionType) else kind


def _in_microseconds(kind: pa.DataType) -> pa.DataType:
    """Return a small type with instants (in UTC if they have a zone), durations and times of day in microseconds."""
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", None if kind.tz is None else "UTC")
    if pa.types.is_duration(kind):
        return pa.duration("us")
    if pa.types.is_time(kind):
        return pa.time64("us")
    return _within(kind, _in_microseconds)


def _within(kind: pa.DataType, changed: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(child.name, changed(child.type)) for child in kind])
    if pa.types.is_map(kind):
        return pa.map_(changed(kind.key_type), changed(kind.item_type))
    if is_list(kind):
        return pa.list_(changed(kind.value_type), kind.list_size if pa.types.is_fixed_size_list(kind) else -1)
    return kind


def _described(field: pa.Field) -> pa.Field:
    kind = field.type
    if isinstance(kind, pa.ExtensionType) and kind.extension_name.startswith("geoarrow."):
        metadata = {_EXTENSION_NAME: kind.extension_name.encode(), _EXTENSION_METADATA: kind.__arrow_ext_serialize__()}
        return pa.field(field.name, kind.storage_type, metadata=metadata)
    metadata = {
        key: text for key, text in (field.metadata or {}).items() if key in (_EXTENSION_NAME, _EXTENSION_METADATA)
    }
    return pa.field(field.name, kind, metadata=metadata or None)


def _without_extents(geo: bytes) -> bytes:
    with suppress(ValueError, LookupError, TypeError, AttributeError):  # raised by other content than GeoParquet's
        document: dict[str, Any] = json.loads(geo)
        for column in document["columns"].values():
            column.pop("bbox", None)
        return json.dumps(document, sort_keys=True).encode()
    return geo
