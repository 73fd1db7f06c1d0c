"""The record table as reads of pixels see it, and the bands it has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from shapely.geometry.base import BaseGeometry

from rasteret_assets import schema
from rasteret_assets.errors import BandNotFoundError, CollectionError, SpecError
from rasteret_assets.spec import CloudConfig
from rasteret_assets.storage.backend import StorageBackend


class RecordTable(Protocol):
    """A record table as reads of pixels need it; :class:`Collection` is one, which formats must not import."""

    @property
    def name(self) -> str:
        """Name under which the table was published."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Schema of the records."""
        ...

    @property
    def dataset(self) -> ds.Dataset:
        """Dataset with the records."""
        ...

    @property
    def expression(self) -> pc.Expression | None:
        """Condition that records satisfy; None for all."""
        ...

    @property
    def areas(self) -> tuple[tuple[BaseGeometry, ...], ...]:
        """Groups of lon/lat geometries; a record must meet one of every group."""
        ...

    @property
    def is_filtered(self) -> bool:
        """Whether rows of the dataset may be left out."""
        ...

    @property
    def bands(self) -> list[str]:
        """Names of the indexed bands."""
        ...

    @property
    def backend(self) -> StorageBackend | None:
        """Reads the bytes of rasters; None for the default one."""
        ...

    @property
    def data_source(self) -> str:
        """Provider of the records."""
        ...

    @property
    def credentials(self) -> str | Mapping[str, str] | None:
        """Credentials of the files of rasters; None for files that need none."""
        ...

    @property
    def cloud_config(self) -> CloudConfig | None:
        """How the provider's objects are reached; None if the collection does not state it."""
        ...

    def where(self, expression: pc.Expression) -> Self:
        """Return the records that also satisfy an expression."""
        ...

    def batches(self, columns: Mapping[str, pc.Expression]) -> Iterator[pa.RecordBatch]:
        """Yield the records with computed columns."""
        ...


def checked_bands(table: RecordTable, bands: str | Sequence[str]) -> list[str]:
    """Return the names of the bands asked for, all of which the table has.

    Raises:
        SpecError: if ``bands`` is empty, is not names, or names a band twice.
        BandNotFoundError: if the table does not have a band.
        CollectionError: if the table has no addresses of a band.
    """
    names = list(bands) if isinstance(bands, Iterable) and not isinstance(bands, str) else [bands]
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise SpecError(
            f"bands must be names such as 'B04', not {wrong[0]!r}: this collection has {listed_bands(table)}"
        )
    indexed = table.bands
    if not names:
        raise SpecError(f"bands is empty: name one of {listed_bands(table)}")
    if len(set(names)) < len(names):
        raise SpecError(f"bands={names} names a band twice: name each once")
    for band in names:
        if band not in indexed:
            raise BandNotFoundError(f"band {band!r} is not in this collection, which has {listed_bands(table)}")
        if not has_href(table.schema, band):
            raise CollectionError(
                f"band {band!r} has headers, but no addresses of files: the column assets has no field {band}.href; "
                "build the collection again"
            )
    return names


def indexed_band(table: RecordTable, band: str | None) -> str:
    """Return the name of a band that has headers: ``band``, or the first of the table if it is None.

    Raises:
        BandNotFoundError: if the table does not have the band, or has no band.
    """
    bands = table.bands
    if band is None and bands:
        return bands[0]
    if band not in bands:
        raise BandNotFoundError(f"band {band!r} is not in this collection, which has {listed_bands(table)}")
    return str(band)


def listed_bands(table: RecordTable) -> str:
    """Return the names of a table's bands for a message."""
    return ", ".join(table.bands) or "no indexed band: build it with enrich_cog=True"


def has_href(columns: pa.Schema, band: str) -> bool:
    """Return whether the table has the field ``assets.<band>.href``."""
    kind = columns.field(schema.ASSETS).type
    for name in (band, schema.HREF):
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return False
        kind = kind.field(name).type
    return True
