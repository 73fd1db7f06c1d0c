"""Stage 1, raw records: open a record table, whatever it is, and scan its rows by partition.

A source is a Parquet file, a directory of them (hive keys become columns), or any Arrow object. The projection and the
filter are pushed into the scan. Files of one directory may differ in schema: the columns are united by name, so a
column that only a later file has is not lost.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rasteret_assets.columns.types import plain_type
from rasteret_assets.errors import MissingColumnError, RasteretAssetsError, SourceError
from rasteret_assets.geometry import primary_geometry
from rasteret_assets.schema import ASSETS, GEOMETRY, REQUIRED_COLUMNS
from rasteret_assets.source.schemas import unite_schemas
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.batches import BATCH_ROWS
from rasteret_assets.storage.filesystems import each_file, list_files, resolve_filesystem
from rasteret_assets.storage.urls import redact

PARQUET_SUFFIXES = (".parquet", ".geoparquet", ".parq", ".pq")
# Arrow would read far ahead of a slow consumer: gigabytes, where row groups are large.
_READAHEAD: Final[dict[str, int]] = {"batch_readahead": 2, "fragment_readahead": 1}
#: Encoded bytes of a row group whose memory is given back at once.
_LARGE_GROUP_BYTES: Final = 32 * 2**20


@dataclass(frozen=True, kw_only=True)
class SourcePart:
    """One file of a source, or the whole of an in-memory one.

    Args:
        version: changes whenever the file is rewritten or renamed.
        dataset: its rows.
    """

    version: str
    dataset: ds.Dataset | ds.Fragment


@dataclass(frozen=True, kw_only=True)
class Source:
    """An opened record table.

    Args:
        dataset: its rows.
        schema: columns after projection, with the footer metadata of the first file.
        fingerprint: changes whenever a file of the source is added, removed or rewritten; unique per object for
            in-memory sources.
        label: what to call it in messages.
        filter: row filter, or None.
        parts: its files, in path order.
    """

    dataset: ds.Dataset
    schema: pa.Schema
    fingerprint: str
    label: str
    filter: ds.Expression | None = None
    parts: tuple[SourcePart, ...] = field(default=())

    def batches(self, part: SourcePart | None = None) -> Iterator[pa.RecordBatch]:
        """The selected rows in file order, in bounded batches: of one part, or of all.

        Raises:
            SourceError: if a file turns out unreadable on the way.
            MissingColumnError: if the filter names a column that is not there.
        """
        for chosen in self.parts if part is None else (part,):
            try:
                for rows in self._pieces(chosen.dataset):
                    # A fragment by itself does not know the columns that only other files have.
                    united = {"schema": self.dataset.schema} if isinstance(rows, ds.Fragment) else {}
                    scanner = rows.scanner(
                        columns=self.schema.names, filter=self.filter, batch_size=BATCH_ROWS, **_READAHEAD, **united
                    )
                    for batch in scanner.to_batches():
                        yield _as_scanned(batch, self.schema)
            except (pa.ArrowException, OSError) as error:
                raise self._explained(error) from error

    def _pieces(self, rows: ds.Dataset | ds.Fragment) -> Iterator[ds.Dataset | ds.Fragment]:
        """A file by row groups: Arrow buffers what it scans at once, which for a file is all of it."""
        if isinstance(rows, ds.ParquetFileFragment):
            for group in rows.split_by_row_group(self.filter, schema=self.dataset.schema):
                yield group
                if sum(held.total_byte_size for held in group.row_groups) > _LARGE_GROUP_BYTES:
                    # The allocator would keep the pages of several such row groups for a while. (Of small ones it
                    # may: memory that is given back has to be faulted in again, which takes longer than decoding.)
                    pa.default_memory_pool().release_unused()
        else:
            yield rows

    def table(self) -> pa.Table:
        """All selected rows."""
        return pa.Table.from_batches(list(self.batches()), self.schema)

    def _explained(self, error: Exception) -> RasteretAssetsError:
        text = str(error)
        if "FieldRef" in text:
            return MissingColumnError(
                f"{self.label}: filter_expr ({self.filter}) names a column the table does not have; "
                f"it has {_listed(self.dataset.schema.names)}"
            )
        if self.filter is not None and "Function" in text:
            return SourceError(f"{self.label}: filter_expr ({self.filter}) does not fit the column's type: {text}")
        return SourceError(f"{self.label}: cannot be read: {text}")


_VECTOR_FORMATS: Final = ("geojson", "gpkg", "shp", "fgb", "gdb")
_PANDAS_INDEX: Final = re.compile(r"__index_level_\d+__")


def open_source(data: Any, spec: CollectionSpec, filesystem: Any = None) -> Source:
    """Open ``data`` as a record table.

    Args:
        data: path or URI of a Parquet file or directory, or an Arrow Table, Dataset, RecordBatch, RecordBatchReader,
            any object with ``__arrow_c_stream__``, or a GeoDataFrame.
        spec: gives ``columns``, ``filter_expr``, ``column_map`` and ``href_column``.
        filesystem: pyarrow or fsspec filesystem of ``data`` where it is a path.

    Raises:
        SourceError: if there is nothing there, or what is there is no Parquet.
        MissingColumnError: if a column that the spec or the record contract names is not there.
    """
    source = open_table(data, filesystem)
    columns = _projection(source, spec)
    # A row number that pandas writes beside the columns of a filtered DataFrame says nothing of a record.
    names = [name for name in source.schema.names if not _PANDAS_INDEX.fullmatch(name)] if columns is None else columns
    times = Counter(source.schema.names)
    if double := sorted({name for name in names if times[name] > 1}):
        raise SourceError(f"{source.label}: has several columns named {double}; rename all but one")
    # Some readers hand on the schema that Arrow writers keep in a footer; it would be taken for that of our files.
    described = {key: text for key, text in (source.schema.metadata or {}).items() if key != b"ARROW:schema"}
    schema = pa.schema([_scanned_field(source.schema.field(name)) for name in names], described)
    opened = Source(
        dataset=source.dataset, schema=schema, fingerprint=source.fingerprint, label=source.label,
        filter=spec.filter, parts=source.parts,
    )  # fmt: skip
    _check_contract(opened, spec)
    if not isinstance(data, str | Path):
        _check_storable(opened)
    return opened


def open_table(data: Any, filesystem: Any = None) -> Source:
    """A table as it is, whatever its columns are called; :func:`open_source` also holds it against a spec.

    Raises:
        SourceError: if there is nothing there, or what is there is no Parquet.
    """
    return _open_path(str(data), filesystem) if isinstance(data, str | Path) else _open_arrow(data)


def _open_path(path: str, filesystem: Any) -> Source:
    label = redact(path)
    fs, inside = resolve_filesystem(path, filesystem)
    try:
        info = fs.get_file_info(inside)
        if info.type == pafs.FileType.NotFound:
            raise SourceError(f"{label}: no such file or folder; give the path or URI of a Parquet file or dataset")
        folder = info.type == pafs.FileType.Directory
        infos = list_files(fs, inside, PARQUET_SUFFIXES) if folder else [info]
    except OSError as error:
        raise SourceError(f"{label}: cannot be reached ({error})") from error
    if not infos:
        raise SourceError(f"{label}: holds no Parquet file (looked for names ending in {', '.join(PARQUET_SUFFIXES)})")
    hive = ds.HivePartitioning.discover(schema=None) if folder else None
    schemas = each_file(fs, lambda path: _file_schema(fs, path), [entry.path for entry in infos])
    try:
        dataset = ds.FileSystemDatasetFactory(
            fs,
            [entry.path for entry in infos],
            ds.ParquetFileFormat(),
            ds.FileSystemFactoryOptions(partition_base_dir=inside, partitioning=hive),
        )
        keys = dataset.inspect(promote_options="permissive", fragments=0) if folder else pa.schema([])
        united = unite_schemas(label, [entry.path for entry in infos], schemas)
        extra = [key for key in keys if key.name not in united.names]
        finished = dataset.finish(pa.schema([*united, *extra], united.metadata))
    except pa.ArrowException as error:
        raise SourceError(f"{label}: its files do not fit together: {error}") from error
    versions = {
        entry.path: _digest(f"{entry.path.removeprefix(inside)}\0{entry.size}\0{entry.mtime_ns}") for entry in infos
    }
    # One fragment a file, in path order: what is found in a file is remembered as long as the file is not rewritten.
    fragments = sorted(finished.get_fragments(), key=lambda fragment: fragment.path)
    return Source(
        dataset=finished, schema=finished.schema, fingerprint=_digest("\n".join(versions.values())), label=label,
        parts=tuple(SourcePart(version=versions[fragment.path], dataset=fragment) for fragment in fragments),
    )  # fmt: skip


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _file_schema(fs: pafs.FileSystem, path: str) -> pa.Schema:
    try:
        with fs.open_input_file(path) as file:
            return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{redact(path)}: not a readable Parquet file: {error}{_other_format(path)}") from error


def _other_format(path: str) -> str:
    """What helps with a file that is no Parquet by its name."""
    suffix = path.rpartition("/")[2].lower().rpartition(".")[2]
    reader = {"csv": "pandas", "json": "pandas", "xlsx": "pandas"} | dict.fromkeys(_VECTOR_FORMATS, "geopandas")
    return f"; read it with {reader[suffix]}, and give the table" if suffix in reader else ""


def _open_arrow(data: Any) -> Source:
    if isinstance(data, ds.Dataset):
        dataset = data
    elif isinstance(data, pa.Table | pa.RecordBatch):
        dataset = ds.dataset(data)
    elif isinstance(data, pa.RecordBatchReader):
        dataset = ds.dataset(data.read_all())
    elif hasattr(data, "to_arrow") and hasattr(data, "set_geometry"):
        # A GeoDataFrame: as a stream it would be a pandas table, which knows no geometries.
        dataset = ds.dataset(pa.table(data.to_arrow(index=False)))
    elif hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__"):
        dataset = ds.dataset(_exported(data))
    else:
        lazy = "; collect() it first" if hasattr(data, "collect") else ""
        raise SourceError(
            f"{type(data).__name__} is no record table{lazy}: give a path, a pyarrow Table, Dataset or "
            "RecordBatchReader, or any object with __arrow_c_stream__"
        )
    label = f"the {type(data).__name__}"
    fingerprint = f"memory-{id(data):x}"
    part = SourcePart(version=fingerprint, dataset=dataset)
    return Source(dataset=dataset, schema=dataset.schema, fingerprint=fingerprint, label=label, parts=(part,))


def _exported(data: Any) -> pa.Table:
    """What an object hands over as an Arrow stream or array."""
    try:
        return pa.table(data)
    except (pa.ArrowException, TypeError) as error:
        reason = " ".join(str(part) for part in error.args)
        raise SourceError(
            f"the {type(data).__name__} is no Arrow table ({reason}): make footprints a GeoDataFrame's, or WKB or WKT, "
            "and columns of other objects numbers or text"
        ) from error


def _check_storable(source: Source) -> None:
    """Refuse columns of an Arrow object that no Parquet file can hold: the stages are files."""
    for field_ in source.schema:
        try:
            pq.write_table(pa.schema([field_]).empty_table(), pa.BufferOutputStream())
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
            raise SourceError(
                f"{source.label}: column {field_.name!r} is {field_.type}, which Parquet cannot hold ({error}): leave "
                "it out with columns=, or cast it"
            ) from error


def _projection(source: Source, spec: CollectionSpec) -> tuple[str, ...] | None:
    if spec.columns is None:
        return None
    if missing := [name for name in spec.columns if name not in source.schema.names]:
        raise MissingColumnError(f"{source.label}: columns= names {missing}, {_nearest(missing, source.schema.names)}")
    return tuple(dict.fromkeys(spec.columns))


def _check_contract(source: Source, spec: CollectionSpec) -> None:
    """Refuse early, by name, what no row could satisfy."""
    names = list(source.schema.names)
    if missing := [name for name in spec.column_map if name not in names]:
        raise MissingColumnError(f"{source.label}: column_map names {missing}, {_nearest(missing, names)}")
    taken = [f"{a} -> {b}" for a, b in spec.column_map.items() if a != b and b in names]
    if taken:
        raise MissingColumnError(
            f"{source.label}: column_map would hide existing columns ({', '.join(taken)}); "
            "leave them out of columns=, or do not map onto them"
        )
    _check_primary(source, spec, names)
    available = {*names, *spec.column_map.values()}
    if spec.href_column and ASSETS not in available:
        if spec.href_column not in available:
            raise MissingColumnError(
                f"{source.label}: href_column={spec.href_column!r} is not there, {_nearest([spec.href_column], names)}"
            )
        available.add(ASSETS)
    if missing := [name for name in REQUIRED_COLUMNS if name not in available]:
        projected = " columns= leaves out part of the table;" if spec.columns is not None else ""
        href = ", or the column of addresses with href_column= and band_index_map=" if ASSETS in missing else ""
        theirs = primary_geometry(source.schema.metadata) if missing == [GEOMETRY] else None
        raise MissingColumnError(
            f"{source.label}: no record table, it lacks {', '.join(missing)}.{projected} Name the columns that hold "
            f"them with column_map={{{theirs or 'their name'!r}: {missing[0]!r}}}{href}. It has {_listed(names)}"
            f"{_nested(source.schema)}"
        )


def _nested(table: pa.Schema) -> str:
    """What helps where STAC items are rows as they are in JSON."""
    if "properties" not in table.names or not pa.types.is_struct(table.field("properties").type):
        return ""
    return (
        ". These look like STAC items with their properties in a struct: make each a column (as stac-geoparquet does)"
    )


def _scanned_field(field: pa.Field) -> pa.Field:
    """A source field as it is scanned, whatever the process it is scanned in has imported.

    Views are how some writers keep text in memory, not what the file says, and few kernels take them. Geometry is an
    extension type only where somebody has registered GeoArrow's types; its name and CRS then go into the metadata,
    where they are found otherwise.
    """
    if isinstance(field.type, pa.ExtensionType) and field.type.extension_name.startswith("geoarrow."):
        described = {
            b"ARROW:extension:name": field.type.extension_name.encode(),
            b"ARROW:extension:metadata": field.type.__arrow_ext_serialize__(),
        }
        return pa.field(field.name, field.type.storage_type, field.nullable, {**(field.metadata or {}), **described})
    return field.with_type(plain_type(field.type)) if "_view" in str(field.type) else field


def _as_scanned(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = []
    for column, kind in zip(batch.columns, schema.types, strict=True):
        extended = isinstance(column.type, pa.ExtensionType) and not isinstance(kind, pa.ExtensionType)
        stored = column.storage if extended else column
        if pa.types.is_dictionary(stored.type) and stored.dictionary.null_count:
            stored = stored.dictionary_decode().dictionary_encode()  # no Parquet file holds a dictionary with a null
        columns.append(stored if stored.type == kind else stored.cast(kind))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _check_primary(source: Source, spec: CollectionSpec, names: list[str]) -> None:
    """Refuse to guess between a column called ``geometry`` and the one a GeoParquet footer calls primary."""
    primary = primary_geometry(source.schema.metadata)
    if primary in names and primary != GEOMETRY and GEOMETRY in names and GEOMETRY not in spec.column_map.values():
        raise MissingColumnError(
            f"{source.label}: its GeoParquet footer names {primary!r} as the primary geometry, but there is a column "
            "'geometry' too: leave that one out with columns=, and map the footprint with "
            f"column_map={{{primary!r}: 'geometry'}}"
        )


def _nearest(missing: list[str], names: list[str]) -> str:
    near = [match for name in missing for match in difflib.get_close_matches(name, names, n=1)]
    return f"did you mean {near}?" if near else f"the table has {_listed(names)}"


def _listed(names: list[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
