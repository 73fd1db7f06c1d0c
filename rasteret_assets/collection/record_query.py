"""Records of a record table, chosen by filters; rows are read when they are needed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from shapely.geometry.base import BaseGeometry

from rasteret_assets import schema
from rasteret_assets.collection.areas.area import AUTO, Area, bbox_geometry, coerce_areas
from rasteret_assets.collection.table import query, scan
from rasteret_assets.collection.table.dates import parse_date_range
from rasteret_assets.errors import CollectionError, SpecError
from rasteret_assets.inputs import AreasLike, CRSLike, DateRangeLike
from rasteret_assets.spec import CloudConfig
from rasteret_assets.storage.backend import StorageBackend

#: How Arrow says that an expression names a column which does not exist.
_UNKNOWN_COLUMN: Final = re.compile(r"No match for FieldRef\.Name\((.+?)\) in ")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RecordQuery:
    """Records of a record table: all of them, or those that ``subset`` and ``where`` chose. Lazy and immutable.

    Args:
        dataset: the record table, with a ``{band}_metadata`` column for every indexed band.
        name: name it was published under.
        data_source: provider of the records.
        description: one sentence for people.
        path: where the table was opened; None for a table in memory.
        backend: reads the bytes of rasters; None for the default one.
        credentials: of the files, as in a spec, used if ``backend`` is None; None for files that need no credentials.
        cloud_config: how the provider's objects are reached, used if neither ``backend`` nor a read states it.
        expression: condition that records satisfy; None for all.
        areas: groups of lon/lat geometries; a record must meet one of every group, exactly.
    """

    dataset: ds.Dataset
    name: str = ""
    data_source: str = ""
    description: str = ""
    path: str | None = None
    backend: StorageBackend | None = None
    credentials: str | Mapping[str, str] | None = None
    cloud_config: CloudConfig | None = None
    expression: pc.Expression | None = None
    areas: tuple[tuple[BaseGeometry, ...], ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields for another process, with a dataset in memory as a table, because it cannot be pickled."""
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        if isinstance(self.dataset, ds.InMemoryDataset):
            state["dataset"] = self.dataset.to_table()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if isinstance(table := state["dataset"], pa.Table):
            state = state | {"dataset": ds.dataset(table)}
        vars(self).update(state)

    # --- filters -----------------------------------------------------------------------------------------------------

    def subset(
        self,
        *,
        bbox: Sequence[float] | None = None,
        date_range: DateRangeLike | None = None,
        cloud_cover_lt: float | None = None,
        geometries: AreasLike | None = None,
        geometry_crs: CRSLike = AUTO,
        geometry_column: str | None = None,
        split: str | Sequence[str] | None = None,
    ) -> Self:
        """Return the records that satisfy every criterion, and those of earlier calls.

        Args:
            bbox: (xmin, ymin, xmax, ymax) in lon/lat that the footprint meets; xmin > xmax crosses the antimeridian.
            date_range: a date, a pair (start, end), a slice, or an interval as STAC writes it
                (``"2024-01/2024-02-10"``). An end is a date, a datetime, an ISO 8601 string or None (open); without a
                time of day the whole day, month or year counts. Records without a datetime match by their
                start_datetime and end_datetime.
            cloud_cover_lt: upper limit, excluded, of ``eo:cloud_cover`` in percent; a record without a value does not
                match.
            geometries: areas, of which the footprint meets at least one, in any form of
                :data:`~rasteret_assets.inputs.AreasLike`.
            geometry_crs: CRS of ``geometries``; ``"auto"`` takes the CRS that they state, else lon/lat.
            geometry_column: column of ``geometries`` if they are a table.
            split: value, or values, of the column ``split``, such as ``"train"``.

        Raises:
            SpecError: if a criterion is not understood.
            WindowError: if an area is empty, invalid or not on the globe.
            CollectionError: if the collection does not have the column of a criterion.
        """
        wanted: list[pc.Expression | None] = []
        if date_range is not None:
            keys = query.partition_keys(self.dataset)
            wanted.append(query.acquired_within(self.schema, parse_date_range(date_range), partition_keys=keys))
        if cloud_cover_lt is not None:
            wanted.append(query.cloud_cover_below(self.schema, cloud_cover_lt))
        if split is not None:
            wanted.append(query.in_split(self.schema, [split] if isinstance(split, str) else split))
        found = self._narrowed(query.all_of(wanted))
        if bbox is not None:
            found = found.meeting([Area(geometry=bbox_geometry(bbox), is_box=True)])
        if geometries is not None:
            found = found.meeting(coerce_areas(geometries, geometry_crs, geometry_column))
        return found

    def where(self, expression: pc.Expression) -> Self:
        """Return the records that satisfy a pyarrow expression, and the criteria of earlier calls.

        Raises:
            SpecError: if ``expression`` is not an expression, or not a condition on columns of the collection.
        """
        if not isinstance(expression, pc.Expression):
            raise SpecError(f"where() needs a pyarrow expression, such as pc.field('gsd') <= 10, not {expression!r}")
        try:
            self.dataset.scanner(columns=[], filter=expression)
        except (pa.ArrowException, TypeError) as error:
            reason = str(error).partition("\n")[0]
            if (missing := _UNKNOWN_COLUMN.match(reason)) and missing[1] not in self.schema.names:
                reason = f"there is no column {missing[1]!r}, there are: {', '.join(self.schema.names)}"
            raise SpecError(f"where({expression}) does not fit this collection: {reason}") from error
        return self._narrowed(expression)

    def meeting(self, areas: Sequence[Area]) -> Self:
        """Return the records whose footprint meets at least one of ``areas``, exactly.

        Raises:
            WindowError: if an area is not on the globe.
        """
        shapes = tuple(area.lonlat() for area in areas)
        return replace(self._narrowed(query.bbox_meets(shapes)), areas=(*self.areas, shapes))

    def _narrowed(self, expression: pc.Expression | None) -> Self:
        return replace(self, expression=query.all_of([self.expression, expression]))

    @property
    def is_filtered(self) -> bool:
        """Whether a filter was set, so that rows of the dataset may be left out."""
        return self.expression is not None or bool(self.areas)

    # --- rows --------------------------------------------------------------------------------------------------------

    @property
    def schema(self) -> pa.Schema:
        """Schema of the records."""
        return self.dataset.schema

    def to_reader(self, columns: Sequence[str] | None = None) -> pa.RecordBatchReader:
        """Return the records as a stream of batches, which are read while the stream is consumed.

        Args:
            columns: names to read; all by default.

        Raises:
            CollectionError: if a column does not exist; while the stream is consumed, if a file is damaged or was
                replaced by a build.
        """
        names = self._checked(columns)
        metadata = dict(self.schema.metadata or {})
        if schema.GEOMETRY not in names:
            metadata.pop(schema.GEO_KEY, None)
        fields = pa.schema([self.schema.field(name) for name in names], metadata)
        return pa.RecordBatchReader.from_batches(fields, self.batches({name: pc.field(name) for name in names}))

    def to_table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the records in memory; arguments and errors are those of :meth:`to_reader`."""
        return self.to_reader(columns).read_all()

    def head(self, n: int = 5, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the first ``n`` records in memory, and end the scan there; errors are those of :meth:`to_reader`."""
        reader = self.to_reader(columns)
        kept: list[pa.RecordBatch] = []
        for batch in reader if n > 0 else ():
            kept.append(batch.slice(0, n - sum(part.num_rows for part in kept)))
            if sum(part.num_rows for part in kept) >= n:
                break
        return pa.Table.from_batches(kept, reader.schema)

    def batches(self, columns: Mapping[str, pc.Expression]) -> Iterator[pa.RecordBatch]:
        """Yield the records with computed columns, a batch at a time.

        Args:
            columns: an expression per column name; nested fields are ``pc.field("assets", "B02", "href")``.

        Raises:
            CollectionError: if a file is damaged, or a build replaced or removed it meanwhile.
        """
        return scan.scan(self.dataset, columns, self.expression, self.areas)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.to_reader().__arrow_c_stream__(requested_schema)

    def __len__(self) -> int:
        if not self.areas:
            return scan.count(self.dataset, self.expression)
        return sum(batch.num_rows for batch in self.batches({}))

    def __bool__(self) -> bool:
        # Because Python would else call __len__, which counts rows, and take an empty collection for false.
        return True

    def _checked(self, columns: Sequence[str] | None) -> list[str]:
        if columns is None:
            return list(self.schema.names)
        for name in [columns] if isinstance(columns, str) else columns:
            if name not in self.schema.names:
                near = difflib.get_close_matches(str(name), self.schema.names, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(self.schema.names)}"
                raise CollectionError(f"this collection has no column {name!r}: {hint}")
        return [columns] if isinstance(columns, str) else list(columns)

    @property
    def bands(self) -> list[str]:
        """Names of the indexed bands, in the order of their columns."""
        return [field.name.removesuffix(schema.METADATA_SUFFIX) for field in self.schema if schema.is_band_field(field)]
