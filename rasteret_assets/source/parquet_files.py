"""Find the Parquet files of a record table, their versions, and their schemas.

Opening a table costs one listing. The schemas of unchanged files are stored; only the footers of the other files are
opened.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rasteret_assets.errors import SourceError
from rasteret_assets.geometry import GeometryColumn, describe_geometry
from rasteret_assets.source.access import TableAccess
from rasteret_assets.source.footprint_crs import crs_name
from rasteret_assets.source.locate import ListedFiles, label_of, locate
from rasteret_assets.source.schemas import reduced
from rasteret_assets.storage.addresses.address import identity_hashes
from rasteret_assets.storage.filesystems import each_file, is_local
from rasteret_assets.storage.object_stores.listing import Listed
from rasteret_assets.versions import FileVersion, file_version, is_strong

_log = logging.getLogger(__name__)

#: Unit in which INT96 is read, because Arrow's default, nanoseconds, holds the years 1677 to 2262 only.
_INT96_UNIT: Final = "us"
FORMAT: Final = ds.ParquetFileFormat(read_options=ds.ParquetReadOptions(coerce_int96_timestamp_unit=_INT96_UNIT))

_VECTOR_FORMATS: Final = ("geojson", "gpkg", "shp", "fgb", "gdb")
#: Folders and files in which table formats list the files that count, and how to read such tables.
_TABLE_LOGS: Final = (
    # Commits have twenty digits (the protocol of Delta Lake); other files of such a folder say nothing.
    (
        r"_delta_log/(\d{20}\.[^/]*|_last_checkpoint)",
        "a Delta table",
        "deltalake's DeltaTable(path).to_pyarrow_dataset()",
    ),
    (r"metadata/[^/]*\.metadata\.json", "an Iceberg table", "pyiceberg's table.scan().to_arrow()"),
    (r"\.hoodie", "a Hudi table", "pyarrow.Table.from_batches(hudi's HudiTable(path).read_snapshot())"),
)
_warned: set[str] = set()

_Placed: TypeAlias = tuple[ListedFiles, Listed]


class SchemaStore(Protocol):
    """Stores the schemas of files between two times that a record table is opened."""

    def alone(self) -> AbstractContextManager[object]:
        """Keep other processes from opening footers of the same table for the time of a context."""

    def load(self) -> dict[str, pa.Schema]:
        """Return the stored schemas by version of the file."""

    def keep(self, schemas: Mapping[str, pa.Schema]) -> None:
        """Store schemas in the place of the stored ones."""


class TableFile(NamedTuple):
    """Holds a file of a record table.

    Args:
        fs: filesystem of the file.
        folder: from which on ``key=value`` folders count, or None.
        path: on the filesystem.
        version: changes whenever the file does.
        schema: the parts of its schema that decide how rows are read.
        size: in bytes, where the store tells.
        label: its name in messages.
    """

    fs: pafs.FileSystem
    folder: str | None
    path: str
    version: str
    schema: pa.Schema
    size: int | None
    label: str


class TableFiles(NamedTuple):
    """Holds the files of a record table."""

    label: str
    files: list[TableFile]


class TableListing(NamedTuple):
    """Holds the Parquet files of a table as their stores list them, each once, and their versions in the same order."""

    label: str
    groups: list[ListedFiles]
    versions: list[FileVersion]

    @property
    def listed(self) -> list[Listed]:
        """All files."""
        return [one for group in self.groups for one in group.files]

    @property
    def remote(self) -> bool:
        """Whether a file of the table lies on another machine."""
        return not all(is_local(group.fs) for group in self.groups)


def find_files(paths: Sequence[str], access: TableAccess, schema_store: SchemaStore | None) -> TableFiles:
    """Find the Parquet files of a table and their schemas.

    Args:
        paths: as for :func:`list_parquet`.
        access: opens the paths.
        schema_store: stores the schemas of unchanged files; all footers are opened when it is None.

    Raises:
        SourceError: if a path does not exist, or is not Parquet.
    """
    found = list_parquet(paths, access)
    places = [(group, one) for group in found.groups for one in group.files]
    schemas = _schemas(places, found.versions, schema_store)
    files = [
        TableFile(group.fs, group.folder, one.path, version.version, schema, one.size, one.shown)
        for (group, one), version, schema in zip(places, found.versions, schemas, strict=True)
    ]
    return TableFiles(found.label, files)


def list_parquet(paths: Sequence[str], access: TableAccess) -> TableListing:
    """List the Parquet files of a table, with their versions; no footer is read.

    Args:
        paths: paths, URIs or HTTP(S) addresses of files, folders and STAC documents, and globs.
        access: opens the paths.

    Raises:
        SourceError: if a path does not exist, or is not a table of Parquet files.
    """
    label = label_of(paths)
    asked_ns = time.time_ns()
    found = locate(paths, access, _refuse_table_formats)
    groups: list[ListedFiles] = []
    versions: dict[str, FileVersion] = {}
    for group in found:
        files = []
        for one, version in zip(group.files, _versions(group.fs, label, group.files, asked_ns), strict=True):
            if one.kind is not None:
                raise SourceError(f"{one.shown}: is {one.kind}, not a regular file: nothing can be read from it twice")
            # Paths of a list may lead to one file by two ways.
            if version.version not in versions:
                versions[version.version] = version
                files.append(one)
        groups.append(ListedFiles(group.fs, group.folder, files))
    return TableListing(label, groups, list(versions.values()))


def _versions(fs: pafs.FileSystem, label: str, listed: Sequence[Listed], asked_ns: int) -> list[FileVersion]:
    versions = [
        file_version(
            fs.type_name, _identity(one), size=one.size, times_ns=one.times_ns, tag=one.tag, asked_ns=asked_ns
        )
        for one in listed
    ]  # fmt: skip
    if label not in _warned and any(not (one.times_ns or is_strong(one.tag)) for one in listed):
        _warned.add(label)
        _log.warning(
            "%s: its filesystem (%s) tells neither when a file was changed nor a strong ETag: such files are read "
            "each time", label, fs.type_name,
        )  # fmt: skip
    return versions


def _identity(listed: Listed) -> str:
    """Return what identifies a file in its kind of store: the path, or a hash of an address, which may hold secrets."""
    if listed.address is None:
        return listed.path
    return str(identity_hashes(pa.array([listed.address], pa.string()))[0].as_py().hex())


def _schemas(
    places: Sequence[_Placed], versions: Sequence[FileVersion], schema_store: SchemaStore | None
) -> list[pa.Schema]:
    """Return the schemas of files, in their order; files of equal schemas share one object."""
    kept = {} if schema_store is None else schema_store.load()
    if schema_store is None or kept.keys() >= {version.version for version in versions}:
        return _opened_schemas(places, versions, kept, schema_store)
    with schema_store.alone():
        # Loaded again, because the last holder of the lock may have opened the same files.
        return _opened_schemas(places, versions, schema_store.load(), schema_store)


def _opened_schemas(
    places: Sequence[_Placed],
    versions: Sequence[FileVersion],
    kept: Mapping[str, pa.Schema],
    schema_store: SchemaStore | None,
) -> list[pa.Schema]:
    found = {version.version: kept[version.version] for version in versions if version.version in kept}
    fresh = [at for at, version in enumerate(versions) if version.version not in found]
    opened = _each_schema([places[at] for at in fresh])
    distinct = {id(schema): schema for schema in found.values()} if fresh else {}
    shared = {schema.serialize().to_pybytes(): schema for schema in distinct.values()}
    for at, schema in zip(fresh, opened, strict=True):
        found[versions[at].version] = shared.setdefault(schema.serialize().to_pybytes(), schema)
    if schema_store is not None:
        lasting = {one.version: found[one.version] for one in versions if one.is_reliable}
        if lasting.keys() != kept.keys():
            schema_store.keep(lasting)
    return [found[version.version] for version in versions]


def _each_schema(places: Sequence[_Placed]) -> list[pa.Schema]:
    """Open the schemas of files in their order, many at once where a store takes time to answer."""
    found: list[pa.Schema] = []
    for _, same in groupby(places, key=lambda place: id(place[0])):
        some = list(same)
        found += _of_one_store(some[0][0].fs, [one for _, one in some])
    return found


def _of_one_store(fs: pafs.FileSystem, files: Sequence[Listed]) -> list[pa.Schema]:
    by_path = {one.path: one for one in files}
    return each_file(fs, lambda path: _file_schema(fs, by_path[path]), list(by_path))


def _file_schema(fs: pafs.FileSystem, file: Listed) -> pa.Schema:
    label = file.shown
    try:
        with fs.open_input_file(file.path) as source, pq.ParquetFile(
            source, coerce_int96_timestamp_unit=_INT96_UNIT
        ) as opened:  # fmt: skip
            return _with_logical_crs(label, reduced(opened.schema_arrow), opened)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{label}: not a readable Parquet file: {error}{_other_format(file.path)}") from error


def _with_logical_crs(label: str, schema: pa.Schema, file: pq.ParquetFile) -> pa.Schema:
    """Return a schema whose geometry columns have the CRS that Parquet's GEOMETRY and GEOGRAPHY types state.

    Raises:
        SourceError: if a GeoParquet footer or an Arrow extension states another one.
    """
    for place in range(len(file.schema)):
        column = file.schema.column(place)
        if column.logical_type.type not in {"GEOMETRY", "GEOGRAPHY"} or column.path not in schema.names:
            continue
        at = schema.get_field_index(column.path)
        crs = _logical_crs(json.loads(column.logical_type.to_json()).get("crs"), file.metadata.metadata or {})
        if crs is None:
            continue  # lon/lat by default; a footer may state another CRS
        field, in_type = schema.field(at), GeometryColumn(crs=crs)
        stated = describe_geometry(field, schema.metadata)
        if stated.crs is None and not stated.unknown_crs:
            name = (field.metadata or {}).get(b"ARROW:extension:name", b"geoarrow.wkb")
            extension = {b"ARROW:extension:name": name, b"ARROW:extension:metadata": json.dumps({"crs": crs}).encode()}
            schema = schema.set(at, field.with_metadata(extension))
        elif crs_name(stated) != crs_name(in_type):
            raise SourceError(
                f"{label}: states two CRSs for {column.path!r}: {crs_name(in_type)[:80]} in its Parquet type, "
                f"{crs_name(stated)[:80]} in its GeoParquet footer: write it with one of them"
            )
    return schema


def _logical_crs(text: str | None, metadata: Mapping[bytes, bytes]) -> Any | None:
    """Return a CRS from the text of Parquet's types: ``srid:n``, ``projjson:key`` of the footer, PROJJSON, or other."""
    if not text:
        return None
    kind, _, rest = text.partition(":")
    if kind.lower() == "srid" and rest.strip().isdigit():
        return f"EPSG:{rest.strip()}" if int(rest) else None
    if kind.lower() == "projjson":
        text = metadata.get(rest.encode(), b"").decode() or text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _refuse_table_formats(fs: pafs.FileSystem, label: str, folder: str, listed: Sequence[Listed]) -> None:
    """Refuse a folder of a table format, because some of its files hold deleted rows."""
    root = folder.rstrip("/")
    inside = [one.path.removeprefix(root + "/") for one in listed]
    while "=" in root.rpartition("/")[2] or root.rpartition("/")[2] == "data":
        # A partition of such a table, or its folder of data files.
        root = root.rpartition("/")[0]
        if not root:
            break
        beside = fs.get_file_info([f"{root}/_delta_log", f"{root}/.hoodie"])
        inside += [info.path for info in beside if info.type == pafs.FileType.Directory]
        metadata = fs.get_file_info(pafs.FileSelector(f"{root}/metadata", allow_not_found=True))
        inside += [f"metadata/{info.base_name}" for info in metadata]
    for path in [path for path in inside if path.endswith("_delta_log")]:
        whole = path if path.startswith(("/", root)) else f"{folder.rstrip('/')}/{path}"
        entries = fs.get_file_info(pafs.FileSelector(whole, allow_not_found=True))
        inside += [f"_delta_log/{entry.base_name}" for entry in entries]
    for pattern, what, reader in _TABLE_LOGS:
        if any(re.search(rf"(^|/){pattern}(/|$)", path) for path in inside):
            log = pattern.partition("/")[0].replace("\\", "")
            raise SourceError(
                f"{label}: is {what}: its {log} says which of the files count, others hold rows that were deleted or "
                f"replaced. Read it with {reader}, and give that"
            )


def _other_format(path: str) -> str:
    """Return a hint for a file whose name is not that of Parquet; an empty text for other files."""
    suffix = path.rpartition("/")[2].lower().rpartition(".")[2]
    reader = {"csv": "pandas", "json": "pandas", "xlsx": "pandas"} | dict.fromkeys(_VECTOR_FORMATS, "geopandas")
    return f"; read it with {reader[suffix]}, and give the table" if suffix in reader else ""
