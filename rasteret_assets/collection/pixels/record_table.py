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
    """A table of records as reads see it: what :class:`Collection` is, to those who must not import it."""

    @property
    def name(self) -> str:
        """Name it was published under."""
        ...

    @property
    def schema(self) -> pa.Schema:
        """Schema of the records."""
        ...

    @property
    def dataset(self) -> ds.Dataset:
        """Where the records are."""
        ...

    @property
    def expression(self) -> pc.Expression | None:
        """What records must satisfy; None for all."""
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
        """What opens the files of rasters; None for files that need nothing."""
        ...

    @property
    def cloud_config(self) -> CloudConfig | None:
        """How the provider's objects are reached, where the collection says so itself."""
        ...

    def where(self, expression: pc.Expression) -> Self:
        """The records that satisfy an expression too."""
        ...

    def batches(self, columns: Mapping[str, pc.Expression]) -> Iterator[pa.RecordBatch]:
        """The records with computed columns."""
        ...


def known_bands(table: RecordTable, bands: str | Sequence[str]) -> list[str]:
    """The bands asked for, which are all there.

    Raises:
        SpecError: if there is none, or one is asked for twice.
        BandNotFoundError: if the collection lacks one.
        CollectionError: if there is no column with the addresses of one.
    """
    names = list(bands) if isinstance(bands, Iterable) and not isinstance(bands, str) else [bands]
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise SpecError(f"bands={bands!r} names no band by {wrong[0]!r}: this collection has {table.bands}")
    known = table.bands
    if not names:
        raise SpecError(f"bands is empty: this collection has {known}")
    if len(set(names)) < len(names):
        raise SpecError(f"bands={names} names one twice")
    for band in names:
        if band not in known:
            raise BandNotFoundError(f"band {band!r} is not in this collection, which has {known or 'none indexed'}")
        if not has_href(table.schema, band):
            raise CollectionError(f"band {band!r} has headers but no address: column assets lacks {band}.href")
    return names


def indexed_band(table: RecordTable, band: str | None) -> str:
    """A band that has headers: the one asked for, or the first.

    Raises:
        BandNotFoundError: if it is not there, or there is none.
    """
    known = table.bands
    if band is None and known:
        return known[0]
    if band not in known:
        raise BandNotFoundError(f"band {band!r} is not in this collection, which has {known or 'none indexed'}")
    return str(band)


def has_href(columns: pa.Schema, band: str) -> bool:
    """Whether ``assets.<band>.href`` is there to be read."""
    kind = columns.field(schema.ASSETS).type
    for name in (band, schema.HREF):
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return False
        kind = kind.field(name).type
    return True
