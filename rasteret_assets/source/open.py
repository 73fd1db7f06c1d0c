"""Open a record table of any kind, and scan its rows.

A source is a Parquet file, a directory of Parquet files (hive keys become columns), several of both, or any Arrow
object. The projection and the filter are pushed into the scan. Files of one table may differ in schema: each file is
scanned with its own columns, and its rows are brought to the columns of all files, so that a column that only a later
file has is not lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Final

import pyarrow as pa
import pyarrow.dataset as ds

from rasteret_assets.columns.conform import conform
from rasteret_assets.columns.hashing import ContentDigest
from rasteret_assets.errors import MissingColumnError, RasteretAssetsError, SourceError
from rasteret_assets.geometry import GeometryColumn, primary_geometry
from rasteret_assets.schema import DATETIME, END_DATETIME, GEOMETRY, START_DATETIME
from rasteret_assets.source._arrow_objects import as_dataset
from rasteret_assets.source._contract_columns import OF_THE_SCANNER, check_contract, check_storable, listed, projection
from rasteret_assets.source.access import TableAccess
from rasteret_assets.source.footprint_crs import as_ewkb, describe_footprints, is_one, srid_of
from rasteret_assets.source.locate import paths_of
from rasteret_assets.source.parquet_files import FORMAT, SchemaStore, TableFile, TableFiles, find_files
from rasteret_assets.source.schemas import reduced, unite_schemas
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.filesystems import is_local
from rasteret_assets.storage.process.batches import BATCH_ROWS
from rasteret_assets.versions import arrow_version, files_version

# Less than Arrow's defaults, which read gigabytes ahead of a slow consumer if row groups are large.
_READAHEAD: Final[dict[str, int]] = {"batch_readahead": 2, "fragment_readahead": 1}
#: Encoded bytes of a row group whose memory is given back at once.
_LARGE_GROUP_BYTES: Final = 32 * 2**20


@dataclass(frozen=True, kw_only=True)
class SourcePart:
    """Holds one file of a source, or the whole of an Arrow object.

    Args:
        version: changes when the file is rewritten or renamed, or when the object has other content; empty until the
            object is read.
        dataset: its rows.
        schema: its own columns, with the footer's metadata.
        scanned: schema of the scan: its own columns, and the columns that only other files have.
        label: its name in messages.
        size: of the file in bytes; None for an object, and if the store does not tell.
        footprints: how its footprints are to be read, and the number of their CRS, where they are written as EWKB
            because the files differ in it; None where the rows stay as they are.
    """

    version: str
    dataset: ds.Dataset | ds.Fragment
    schema: pa.Schema
    scanned: pa.Schema
    label: str = ""
    size: int | None = None
    footprints: tuple[GeometryColumn, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Holds an opened record table.

    Args:
        schema: columns after projection, with what the footers say of geometries.
        fingerprint: changes when a file of the source is added, removed or rewritten, or when an Arrow object has
            other content.
        label: its name in messages.
        filter: row filter, or None.
        parts: its files, in path order.
        geometry: name of the column of footprints.
        remote: whether its files, or the catalog that they were harvested from, lie on another machine.
        reopen: opens the files at its path again; None for an Arrow object, which cannot change.
    """

    schema: pa.Schema
    fingerprint: str
    label: str
    filter: ds.Expression | None = None
    parts: tuple[SourcePart, ...] = field(default=())
    geometry: str = GEOMETRY
    remote: bool = False
    reopen: Callable[[], Source] | None = field(default=None, repr=False, compare=False)

    def batches(self, part: SourcePart | None = None, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the selected rows in file order, in bounded batches.

        Args:
            part: file to read; all files when omitted.
            columns: to read; all when omitted.

        Raises:
            SourceError: if a file cannot be read.
            MissingColumnError: if the filter names a column that the table does not have.
        """
        names = self.schema.names if columns is None else list(columns)
        for chosen in self.parts if part is None else (part,):
            try:
                for rows in self._pieces(chosen):
                    # With the columns that only other files have, which a fragment alone does not know.
                    united = {"schema": chosen.scanned} if isinstance(rows, ds.Fragment) else {}
                    scanner = rows.scanner(
                        columns=names, filter=self.filter, batch_size=BATCH_ROWS, **_READAHEAD, **united
                    )
                    for batch in scanner.to_batches():
                        yield self._united(batch, chosen, names)
            except (pa.ArrowException, OSError) as error:
                raise self._explained(error, chosen) from error

    def head(self, rows: int) -> pa.Table:
        """Return the first selected rows."""
        found: list[pa.RecordBatch] = []
        for batch in self.batches():
            found.append(batch)
            if sum(map(len, found)) >= rows:
                break
        return pa.Table.from_batches(found, self.schema).slice(0, rows)

    def table(self) -> pa.Table:
        """Return all selected rows."""
        return pa.Table.from_batches(list(self.batches()), self.schema)

    def _pieces(self, part: SourcePart) -> Iterator[ds.Dataset | ds.Fragment]:
        """Yield a file by row groups, because Arrow buffers all of what it scans at once."""
        if isinstance(part.dataset, ds.ParquetFileFragment):
            for group in part.dataset.split_by_row_group(self.filter, schema=part.scanned):
                yield group
                if sum(held.total_byte_size for held in group.row_groups) > _LARGE_GROUP_BYTES:
                    # Released for large row groups only, because the allocator keeps pages of several for a while;
                    # released pages have to be faulted in again, which for small row groups takes longer than decoding.
                    pa.default_memory_pool().release_unused()
        else:
            yield part.dataset

    def _united(self, batch: pa.RecordBatch, part: SourcePart, names: Sequence[str]) -> pa.RecordBatch:
        """Return the rows of a part with the columns and types of the whole table."""
        columns = {name: batch.column(name) for name in names}
        if part.footprints is not None and self.geometry in columns:
            columns[self.geometry] = as_ewkb(columns[self.geometry], *part.footprints)
        whole = self.schema.names == list(names)
        schema = self.schema if whole else pa.schema([self.schema.field(name) for name in names], self.schema.metadata)
        united = [conform(columns[field.name], field.type) for field in schema]
        return pa.RecordBatch.from_arrays(united, schema=schema)

    def _explained(self, error: Exception, part: SourcePart) -> RasteretAssetsError:
        text = str(error)
        if "FieldRef" in text:
            return MissingColumnError(
                f"{self.label}: filter_expr ({self.filter}) names a column the table does not have; "
                f"it has {listed(part.scanned.names)}"
            )
        if self.filter is not None and "Function" in text:
            return SourceError(f"{self.label}: filter_expr ({self.filter}) does not fit the column's type: {text}")
        return SourceError(f"{part.label or self.label}: cannot be read: {text}")


def open_source(
    data: Any,
    spec: CollectionSpec,
    filesystem: Any = None,
    schema_store: SchemaStore | None = None,
    backend: object = None,
) -> Source:
    """Open ``data`` as a record table.

    Args:
        data: path, URI or address of a Parquet file, directory, STAC document or glob, or a list of these; or an Arrow
            Table, Dataset, RecordBatch, RecordBatchReader, any object with ``__arrow_c_stream__``, or a GeoDataFrame.
        spec: gives ``columns``, ``filter_expr``, ``column_map`` and ``href_column``.
        filesystem: pyarrow or fsspec filesystem of ``data`` where it is a path, or a function that returns that of a
            path.
        schema_store: keeps the schemas of files (see :class:`~._kept_schemas.KeptSchemas`), so that only the footers of
            files that changed are opened; all footers are opened when omitted.
        backend: whose headers and tokens open addresses; one with the spec's ``credentials`` when omitted.

    Raises:
        SourceError: if there is nothing there, or what is there is not Parquet.
        MissingColumnError: if a column that the spec or the record contract names is not there.
    """
    geometry = spec.source_column(GEOMETRY)
    instants = frozenset(map(spec.source_column, (DATETIME, START_DATETIME, END_DATETIME)))
    table = _open(data, TableAccess.of(spec, filesystem, backend), schema_store, geometry, instants)
    if spec.filter is not None:
        table = replace(table, parts=tuple(_in_one_unit(part, table.schema) for part in table.parts))
    names = projection(table.label, table.schema.names, spec)
    schema = pa.schema([table.schema.field(name) for name in names], table.schema.metadata)
    footers = list({id(part.schema): part.schema for part in table.parts}.values())
    check_contract(table.label, schema, footers, spec)
    remote = table.remote or (spec.harvest is not None and spec.harvest.is_remote)
    source = _with_one_crs(replace(table, schema=schema, filter=spec.filter, remote=remote))
    if paths_of(data) is not None:
        return replace(source, reopen=lambda: open_source(data, spec, filesystem, schema_store, backend))
    check_storable(source.label, source.schema)
    return _with_content_version(source)


def open_table(data: Any, filesystem: Any = None) -> Source:
    """Open a table as it is, whatever its columns are called; :func:`open_source` also checks it against a spec.

    Raises:
        SourceError: if there is nothing there, or what is there is not Parquet.
    """
    return _open(data, TableAccess(filesystem=filesystem))


def _open(
    data: Any, access: TableAccess, schema_store: SchemaStore | None = None, geometry: str | None = None,
    instants: frozenset[str] = frozenset({DATETIME, START_DATETIME, END_DATETIME}),
) -> Source:  # fmt: skip
    if (paths := paths_of(data)) is not None:
        return _of_files(find_files(paths, access, schema_store), geometry, instants)
    dataset = as_dataset(data)
    label = f"the {type(data).__name__}"
    schema = reduced(dataset.schema)
    part = SourcePart(version="", dataset=_without_reserved(dataset), schema=schema, scanned=schema, label=label)
    united = unite_schemas(label, [schema])
    return Source(
        schema=united, fingerprint="", label=label, parts=(part,), geometry=geometry or GEOMETRY,
        remote=_is_remote(dataset),
    )  # fmt: skip


def _is_remote(dataset: ds.Dataset) -> bool:
    """Tell whether a dataset's rows come from files of another machine; rows in memory do not."""
    if isinstance(dataset, ds.UnionDataset):
        return any(map(_is_remote, dataset.children))
    return isinstance(dataset, ds.FileSystemDataset) and not is_local(dataset.filesystem)


def _of_files(found: TableFiles, geometry: str | None, instants: frozenset[str]) -> Source:
    distinct = list({id(file.schema): file.schema for file in found.files}.values())
    united = unite_schemas(found.label, distinct, geometry or primary_geometry(distinct[0].metadata), instants)
    groups = [list(group) for _, group in groupby(found.files, key=lambda file: (id(file.fs), file.folder))]
    try:
        datasets = [_DatasetOfFiles(group) for group in groups]
        for keys in (dataset.keys for dataset in datasets):
            united = pa.schema([*united, *(key for key in keys if key.name not in united.names)], united.metadata)
        fragments = [fragment for dataset in datasets for fragment in dataset.fragments(united)]
    except pa.ArrowException as error:
        raise SourceError(f"{found.label}: its files do not fit together: {error}") from error
    scanned = {id(schema): _as_it_is(schema, united) for schema in distinct}
    parts = tuple(
        SourcePart(
            version=file.version, dataset=fragment, schema=file.schema,
            scanned=scanned[id(file.schema)], label=file.label, size=file.size,
        )
        for file, fragment in zip(found.files, fragments, strict=True)
    )  # fmt: skip
    fingerprint = files_version(part.version for part in parts)
    return Source(
        schema=united, fingerprint=fingerprint, label=found.label, parts=parts, geometry=geometry or GEOMETRY,
        remote=not all(is_local(group[0].fs) for group in groups),
    )  # fmt: skip


class _DatasetOfFiles:
    """Holds files of one filesystem and folder, with the columns that ``key=value`` folders make."""

    def __init__(self, files: Sequence[TableFile]) -> None:
        self._paths = [file.path for file in files]
        folder = files[0].folder
        hive = ds.HivePartitioning.discover(schema=None) if folder is not None else None
        self._factory = ds.FileSystemDatasetFactory(
            files[0].fs, self._paths, FORMAT,
            ds.FileSystemFactoryOptions(partition_base_dir=folder, partitioning=hive),
        )  # fmt: skip
        self.keys = (
            self._factory.inspect(promote_options="permissive", fragments=0) if hive is not None else pa.schema([])
        )

    def fragments(self, schema: pa.Schema) -> list[ds.Fragment]:
        """Return the files in their order, to be scanned with the columns of the whole table."""
        found = {fragment.path: fragment for fragment in self._factory.finish(schema).get_fragments()}
        return [found[path] for path in self._paths]


def _as_it_is(schema: pa.Schema, united: pa.Schema) -> pa.Schema:
    """Return the schema to scan a file with: its own columns, and the columns that only other files have."""
    own = set(schema.names)
    return pa.schema(
        [
            schema.field(schema.names.index(field.name)) if field.name in own else field
            for field in united
            if field.name not in OF_THE_SCANNER
        ]
    )


def _in_one_unit(part: SourcePart, united: pa.Schema) -> SourcePart:
    """Return a part whose instants are scanned in the unit of all parts, so that a filter may name any instant."""
    scanned = part.scanned
    for place, column in enumerate(scanned):
        kind = united.field(united.names.index(column.name)).type
        if pa.types.is_timestamp(column.type) and pa.types.is_timestamp(kind):
            scanned = scanned.set(place, column.with_type(kind))
    return part if scanned == part.scanned else replace(part, scanned=scanned)


def _without_reserved(dataset: ds.Dataset) -> ds.Dataset:
    """Return a dataset without the columns whose names Arrow's scanner uses itself, because no scan can read them."""
    kept = [field for field in dataset.schema if field.name not in OF_THE_SCANNER]
    if len(kept) == len(dataset.schema):
        return dataset
    return dataset.replace_schema(pa.schema(kept, dataset.schema.metadata))


def _with_one_crs(source: Source) -> Source:
    """Return a source whose footprints are read in one way: in one CRS, or each with the number of its CRS."""
    geometry = source.geometry
    if geometry not in source.schema.names:
        return source
    described = describe_footprints(source.label, geometry, [(part.label, part.schema) for part in source.parts])
    stated = [(part, one) for part, one in zip(source.parts, described, strict=True) if one is not None]
    if not stated:
        return source
    place = source.schema.get_field_index(geometry)
    kind = source.schema.field(place).type
    if is_one([one for _, one in stated]):
        first = stated[0][0].schema
        field = pa.field(geometry, kind, metadata=first.field(geometry).metadata)
        return replace(source, schema=source.schema.set(place, field).with_metadata(first.metadata))
    parts = tuple(
        part if one is None else replace(part, footprints=(one, srid_of(source.label, part.label, one)))
        for part, one in zip(source.parts, described, strict=True)
    )
    schema = source.schema.set(place, pa.field(geometry, pa.binary())).with_metadata(None)
    return replace(source, schema=schema, parts=parts)


def _with_content_version(source: Source) -> Source:
    """Return an Arrow object with the version of its selected rows, which its address in memory does not tell."""
    digest = ContentDigest()
    for batch in source.batches():
        digest.update(batch)
    version = arrow_version(source.schema, digest.hexdigest())
    return replace(source, fingerprint=version, parts=(replace(source.parts[0], version=version),))
