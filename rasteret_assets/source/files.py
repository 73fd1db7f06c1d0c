"""The Parquet files of a record table: which there are, whether they changed, and what their footers say.

Opening a table costs one listing. The schemas of files that did not change come from where they were kept; only the
footers of the others are opened.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from rasteret_assets.errors import SourceError
from rasteret_assets.geometry import GeometryColumn, describe_geometry
from rasteret_assets.secrets import redact
from rasteret_assets.source.crs import crs_name
from rasteret_assets.source.schemas import reduced
from rasteret_assets.storage.filesystems import each_file, resolve_filesystem
from rasteret_assets.storage.listing import Listed, list_table, visible_files
from rasteret_assets.versions import FileVersion, file_version

_log = logging.getLogger(__name__)

PARQUET_SUFFIXES: Final = (".parquet", ".geoparquet", ".parq", ".pq")
#: INT96 holds any year; as nanoseconds, which is how Arrow reads it by default, those of 1677 to 2262.
_INT96_UNIT: Final = "us"
FORMAT: Final = ds.ParquetFileFormat(read_options=ds.ParquetReadOptions(coerce_int96_timestamp_unit=_INT96_UNIT))

_VECTOR_FORMATS: Final = ("geojson", "gpkg", "shp", "fgb", "gdb")
#: Folders and files in which table formats say which of the other files count, and how to read such tables.
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
_told: set[str] = set()


class SchemaStore(Protocol):
    """Keeps the schemas of files between two looks at a record table."""

    def alone(self) -> AbstractContextManager[object]:
        """Keep other processes from opening files of the same table meanwhile."""

    def load(self) -> dict[str, pa.Schema]:
        """Return the schemas that were kept last, by version of the file."""

    def keep(self, schemas: Mapping[str, pa.Schema]) -> None:
        """Keep schemas in the place of those that were kept before."""


class TableFile(NamedTuple):
    """A file of a record table: where it is, its version, what counts of its schema, and its size where it is told."""

    path: str
    version: str
    schema: pa.Schema
    size: int | None


class TableFiles(NamedTuple):
    """The files of a record table, in path order, and the folder they lie in (None where one file is the table)."""

    fs: pafs.FileSystem
    label: str
    folder: str | None
    files: list[TableFile]


class TableListing(NamedTuple):
    """The Parquet files of a table as their store lists them, in path order, and their versions."""

    fs: pafs.FileSystem
    label: str
    folder: str | None
    listed: list[Listed]
    versions: list[FileVersion]


def find_files(path: str, filesystem: Any, known: SchemaStore | None) -> TableFiles:
    """Find the Parquet files of a table and their schemas.

    Args:
        path: path or URI of a file or a folder.
        filesystem: pyarrow or fsspec filesystem of the path, or None.
        known: where the schemas of files that did not change are kept; all footers are opened without it.

    Raises:
        SourceError: if there is nothing there, or it cannot be read as Parquet files.
    """
    found = list_parquet(path, filesystem)
    schemas = _schemas(found.fs, [one.path for one in found.listed], found.versions, known)
    files = [
        TableFile(one.path, version.version, schema, one.size)
        for one, version, schema in zip(found.listed, found.versions, schemas, strict=True)
    ]
    return TableFiles(found.fs, found.label, found.folder, files)


def list_parquet(path: str, filesystem: Any) -> TableListing:
    """List the Parquet files of a table and tell their versions; no file is opened.

    Args:
        path: path or URI of a file or a folder.
        filesystem: pyarrow or fsspec filesystem of the path, or None.

    Raises:
        SourceError: if there is nothing there, or what is there is not a table of Parquet files.
    """
    label = redact(path)
    fs, inside = resolve_filesystem(path, filesystem)
    looked_ns = time.time_ns()
    try:
        found = list_table(fs, inside)
        if found is not None and found[1]:
            _refuse_table_formats(fs, label, inside, found[0])
    except OSError as error:
        raise SourceError(f"{label}: cannot be reached ({error})") from error
    if found is None:
        raise SourceError(f"{label}: no such file or folder; give the path or URI of a Parquet file or dataset")
    listed, is_folder = found
    if is_folder:
        listed = visible_files(listed, inside, PARQUET_SUFFIXES)
    if not listed:
        raise SourceError(f"{label}: holds no Parquet file (looked for names ending in {', '.join(PARQUET_SUFFIXES)})")
    if odd := next((one for one in listed if one.kind is not None), None):
        raise SourceError(f"{redact(odd.path)}: is {odd.kind}, not a regular file: nothing can be read from it twice")
    versions = _versions(fs, label, listed, looked_ns)
    return TableListing(fs, label, inside if is_folder else None, listed, versions)


def _versions(fs: pafs.FileSystem, label: str, listed: Sequence[Listed], looked_ns: int) -> list[FileVersion]:
    versions = [
        file_version(
            fs.type_name, one.path, size=one.size, times_ns=one.times_ns, tag=one.tag, looked_ns=looked_ns
        )
        for one in listed
    ]  # fmt: skip
    if label not in _told and any(not (one.times_ns or one.tag) for one in listed):
        _told.add(label)
        _log.warning(
            "%s: its filesystem (%s) tells neither when a file was changed nor an ETag: all are read at each look",
            label, fs.type_name,
        )  # fmt: skip
    return versions


def _schemas(
    fs: pafs.FileSystem, paths: Sequence[str], versions: Sequence[FileVersion], known: SchemaStore | None
) -> list[pa.Schema]:
    """Schemas of files, in their order; files of equal schemas share one object."""
    kept = {} if known is None else known.load()
    if known is None or kept.keys() >= {version.version for version in versions}:
        return _opened_schemas(fs, paths, versions, kept, known)
    with known.alone():
        # Whoever held the lock before may have opened the same files.
        return _opened_schemas(fs, paths, versions, known.load(), known)


def _opened_schemas(
    fs: pafs.FileSystem,
    paths: Sequence[str],
    versions: Sequence[FileVersion],
    kept: Mapping[str, pa.Schema],
    known: SchemaStore | None,
) -> list[pa.Schema]:
    found = {version.version: kept[version.version] for version in versions if version.version in kept}
    fresh = [at for at, version in enumerate(versions) if version.version not in found]
    opened = each_file(fs, lambda path: _file_schema(fs, path), [paths[at] for at in fresh])
    distinct = {id(schema): schema for schema in found.values()} if fresh else {}
    shared = {schema.serialize().to_pybytes(): schema for schema in distinct.values()}
    for at, schema in zip(fresh, opened, strict=True):
        found[versions[at].version] = shared.setdefault(schema.serialize().to_pybytes(), schema)
    if known is not None:
        lasting = {one.version: found[one.version] for one in versions if one.believed}
        if lasting.keys() != kept.keys():
            known.keep(lasting)
    return [found[version.version] for version in versions]


def _file_schema(fs: pafs.FileSystem, path: str) -> pa.Schema:
    try:
        with fs.open_input_file(path) as source, pq.ParquetFile(
            source, coerce_int96_timestamp_unit=_INT96_UNIT
        ) as file:  # fmt: skip
            return _with_logical_crs(redact(path), reduced(file.schema_arrow), file)
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{redact(path)}: not a readable Parquet file: {error}{_other_format(path)}") from error


def _with_logical_crs(label: str, schema: pa.Schema, file: pq.ParquetFile) -> pa.Schema:
    """A schema whose geometry columns say the CRS that Parquet's GEOMETRY and GEOGRAPHY types state.

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
            continue  # lon/lat by default, of which a footer may say more
        field, told = schema.field(at), GeometryColumn(crs=crs)
        stated = describe_geometry(field, schema.metadata)
        if stated.crs is None and not stated.unknown_crs:
            name = (field.metadata or {}).get(b"ARROW:extension:name", b"geoarrow.wkb")
            extension = {b"ARROW:extension:name": name, b"ARROW:extension:metadata": json.dumps({"crs": crs}).encode()}
            schema = schema.set(at, field.with_metadata(extension))
        elif crs_name(stated) != crs_name(told):
            raise SourceError(
                f"{label}: states two CRSs for {column.path!r}: {crs_name(told)[:80]} in its Parquet type, "
                f"{crs_name(stated)[:80]} in its GeoParquet footer: write it with one of them"
            )
    return schema


def _logical_crs(text: str | None, metadata: Mapping[bytes, bytes]) -> Any | None:
    """A CRS as Parquet's types write it: ``srid:n``, ``projjson:key`` of the footer, PROJJSON, or any other text."""
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
    """Refuse a folder whose files a log beside them counts, some of which hold deleted rows."""
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
    """What helps with a file that is not Parquet by its name."""
    suffix = path.rpartition("/")[2].lower().rpartition(".")[2]
    reader = {"csv": "pandas", "json": "pandas", "xlsx": "pandas"} | dict.fromkeys(_VECTOR_FORMATS, "geopandas")
    return f"; read it with {reader[suffix]}, and give the table" if suffix in reader else ""
