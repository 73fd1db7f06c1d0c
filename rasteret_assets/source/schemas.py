"""One schema over the files of a record table, which may differ: columns come later, types are widened."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import pyarrow as pa

from rasteret_assets.columns.types import plain_type
from rasteret_assets.errors import SourceError
from rasteret_assets.geometry import describe_geometry


def unite_schemas(label: str, paths: Sequence[str], schemas: Sequence[pa.Schema]) -> pa.Schema:
    """One schema over all files: columns and struct fields by name, numbers widened, nulls taking the others' type.

    A dictionary is how some files keep text in memory; where others do not, the column is text.

    Args:
        label: of the source, for messages.
        paths: of its files.
        schemas: of each.

    Raises:
        SourceError: if the files state different CRSs for their geometries.
        pa.ArrowException: if the types of a column cannot be united.
    """
    _check_geo(label, paths, schemas)
    first = schemas[0].metadata
    bare = [schema.remove_metadata() for schema in schemas]
    if any(schema != bare[0] for schema in bare):
        bare = _without_mixed_dictionaries(bare)
    return pa.unify_schemas(bare, promote_options="permissive").with_metadata(first)


def _without_mixed_dictionaries(schemas: list[pa.Schema]) -> list[pa.Schema]:
    """The same schemas, with plain types in the columns whose types differ."""
    kinds: dict[str, set[pa.DataType]] = {}
    for field_ in chain.from_iterable(schemas):
        kinds.setdefault(field_.name, set()).add(field_.type)
    mixed = {name for name, found in kinds.items() if len(found) > 1}
    return [
        pa.schema([field_.with_type(plain_type(field_.type)) if field_.name in mixed else field_ for field_ in schema])
        for schema in schemas
    ]


def _check_geo(label: str, paths: Sequence[str], schemas: Sequence[pa.Schema]) -> None:
    """Refuse files whose GeoParquet footers disagree about the CRS: one table has one."""
    seen: dict[str, str] = {}
    for path, schema in zip(paths, schemas, strict=True):
        if "geometry" in schema.names:
            described = describe_geometry(schema.field("geometry"), schema.metadata)
            seen.setdefault(f"{described.crs}{described.unknown_crs}", path)
    if len(seen) > 1:
        raise SourceError(
            f"{label}: its files state different CRSs for geometry: {' and '.join(list(seen.values())[:2])}"
        )
