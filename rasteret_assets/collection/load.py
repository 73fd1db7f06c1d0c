"""Open collections: a published Parquet file or directory, or an Arrow object with the columns of a collection."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from rasteret_assets import schema
from rasteret_assets.collection._verify import Verify, problem_with
from rasteret_assets.collection.collection import Collection
from rasteret_assets.credentials import checked_credentials
from rasteret_assets.errors import CollectionError, SpecError
from rasteret_assets.inputs import ArrowLike, FilesystemLike
from rasteret_assets.partitions import PartitionBy, partition_size
from rasteret_assets.source.stored import source_partitions
from rasteret_assets.spec import PUBLISHED_SUFFIXES, CloudConfig
from rasteret_assets.storage.filesystems import each_file, list_files
from rasteret_assets.storage.io_errors import unreadable
from rasteret_assets.storage.workspace import STAGES_SUFFIX, Workspace

_READ_COLUMNS = (*schema.REQUIRED_COLUMNS, schema.BBOX)
_ATTEMPTS = 5
_RETRY_S = 0.05
_NAMED = 12


def load(
    path: str | Path,
    name: str = "",
    *,
    partitions: Sequence[str] | None = None,
    filesystem: FilesystemLike | None = None,
    verify: Verify = "rows",
    credentials: str | Mapping[str, str] | None = None,
    cloud_config: CloudConfig | None = None,
) -> Collection:
    """Open a published collection.

    All footers are read here and compared with what was published, so that a damaged, missing or foreign file is
    refused now and by name. Rows are read when they are needed.

    Args:
        path: a Parquet file, or a directory of them (flat, or in hive folders by the year, month or day of UTC), as a
            local path or URI. Only ``*.parquet`` files count.
        name: name of the collection; by default that under which it was published.
        partitions: keys of the partitions to open, such as ``["2024-05", "undated"]``, of a collection in hive folders;
            by default all. No file of another partition is opened.
        filesystem: pyarrow or fsspec filesystem that takes precedence over the URI's own.
        verify: what is compared with the states beside the data (``<name>_stages/collection``), if there are any:
            ``"rows"`` the number of records and the size of every file, ``"full"`` every byte, ``False`` nothing.
        credentials: of the rasters' files, as in a spec. By default those of the provider that the collection was
            published with; a function of your own has to be named here, because no file may decide which code runs.
        cloud_config: how the provider's objects are reached by reads that do not state it, such as that the requester
            pays.

    Raises:
        CollectionError: if the path does not exist, a file in it is missing or damaged, a partition is not published,
            or the columns are not those of a collection.
        SpecError: if ``partitions`` are not partition keys of one size, or ``verify`` or ``credentials`` is not
            understood.
    """
    workspace = Workspace.at(str(path), filesystem)
    root = workspace.published
    fragments = _verified(workspace, str(path), verify, _checked_keys(partitions))
    dataset = ds.FileSystemDataset(fragments, _common_schema(fragments), ds.ParquetFileFormat(), workspace.fs)
    check_contract(dataset.schema, where=str(path))
    footer = dataset.schema.metadata or {}
    return Collection(
        dataset=dataset,
        name=name or _text(footer, schema.NAME_KEY) or _name_of(root),
        data_source=_text(footer, schema.DATA_SOURCE_KEY),
        description=_text(footer, schema.DESCRIPTION_KEY),
        path=str(path),
        credentials=_credentials(credentials, footer),
        cloud_config=cloud_config,
    )


def _checked_keys(partitions: Sequence[str] | None) -> frozenset[str] | None:
    """Return the partitions that are asked for; None for all."""
    if partitions is None:
        return None
    if isinstance(partitions, str) or not partitions:
        raise SpecError(f"partitions={partitions!r} is not a list of partition keys: write for example ['2024-05']")
    try:
        sizes = {partition_size(key) for key in partitions}
    except (ValueError, TypeError) as error:
        raise SpecError(f"partitions={list(partitions)!r}: {error}") from None
    if len(sizes - {None}) > 1:
        raise SpecError(
            f"partitions={list(partitions)!r} are of several sizes, which hold the same records: write keys of one size"
        )
    return frozenset(partitions)


def _verified(
    workspace: Workspace, path: str, verify: Verify, keys: frozenset[str] | None
) -> list[ds.ParquetFileFragment]:  # fmt: skip
    """Return the files of a collection with their footers; where a build may be changing them, read them again.

    Args:
        workspace: of the collection.
        path: of the collection, for messages.
        verify: what is compared with the states.
        keys: partition keys to open; None for all.
    """
    if verify not in ("rows", "full", False):
        raise SpecError(f"verify={verify!r} must be 'rows', 'full' or False")
    for attempt in range(_ATTEMPTS):
        problem: str | Exception | None
        states = workspace.states() if verify else {}
        try:
            files = _parquet_files(workspace.fs, workspace.published, path)
            if keys is not None:
                files = _of_partitions(workspace, path, files, keys)
                states = {key: state for key, state in states.items() if key in keys}
            # A known size saves a request; a size that is wrong by now is noticed by comparing with the states.
            sizes = files if states and not workspace.is_local else {}
            fragments = _fragments(workspace.fs, workspace.published, list(files), sizes)
            problem = problem_with(workspace, states, fragments, files, verify)
            if problem is None:
                return fragments if keys is not None else _of_one_size(workspace, path, fragments)
        except (CollectionError, FileNotFoundError) as error:
            problem = error
        # A partition that is being published or removed may seem wrong, because states are read before files.
        if states and attempt + 1 < _ATTEMPTS:
            time.sleep(_RETRY_S * 2**attempt)
    raise problem if isinstance(problem, CollectionError) else CollectionError(f"{path}: {problem}")


def _of_partitions(workspace: Workspace, path: str, files: Mapping[str, int], keys: frozenset[str]) -> dict[str, int]:
    """Choose the files of some partitions."""
    key_of = {file: workspace.partition_of(file) for file in files}
    if missing := sorted(keys.difference(key_of.values())):
        there = sorted({key for key in key_of.values() if key is not None})
        held = f"it holds {', '.join(there[:_NAMED])}" if there else "its files do not lie in folders of partitions"
        more = f" and {len(there) - _NAMED} more" if len(there) > _NAMED else ""
        raise CollectionError(f"{path} holds no partition {', '.join(missing[:_NAMED])}; {held}{more}")
    chosen = {file: size for file, size in files.items() if key_of[file] in keys}
    if len(chosen) > len(keys):
        raise CollectionError(
            f"{path} holds {schema.UNDATED} records twice, because a build that changes partition_by was interrupted: "
            "build it again"
        )
    return chosen


def _of_one_size(
    workspace: Workspace, path: str, fragments: list[ds.ParquetFileFragment]
) -> list[ds.ParquetFileFragment]:
    """Choose the files of one partition size while a build replaces, say, months by days: both hold every record.

    The new files count once all of them exist; until then the old files count, which a build removes last.
    """
    by_size: dict[PartitionBy | None, list[ds.ParquetFileFragment]] = {}
    for fragment in fragments:
        by_size.setdefault(workspace.size_of(fragment.path), []).append(fragment)
    if len(by_size) < 2 or None in by_size:
        return fragments
    keys = {size: {workspace.partition_of(file.path) for file in files} for size, files in by_size.items()}
    wanted = source_partitions(workspace)
    if whole := [size for size in by_size if wanted and wanted <= keys[size]]:
        return by_size[min(whole, key=lambda size: len(keys[size]))]
    replaced = by_size.keys() - {partition_size(key) for key in wanted}
    if wanted and len(replaced) == 1:
        return by_size[replaced.pop()]
    raise CollectionError(
        f"{path} holds partitions by {' and by '.join(sorted(map(str, by_size)))}, and which of them hold all records "
        "is unknown, because builds that change partition_by were interrupted: build it again"
    )


def as_collection(
    table: ArrowLike,
    *,
    name: str = "",
    data_source: str = "",
    description: str = "",
    require_band_metadata: bool = True,
    credentials: str | Mapping[str, str] | None = None,
) -> Collection:
    """Wrap an Arrow object that has the columns of a collection; no header is fetched.

    Use it for a table derived from a collection (joined, filtered, extended).

    Args:
        table: a pyarrow Dataset (stays lazy), Table, RecordBatch or RecordBatchReader, or any object that exports an
            Arrow stream or array by PyCapsule (polars, DuckDB, geopandas ...). Streams are read into memory, and
            their views of strings and binaries become plain types, because Arrow cannot filter views.
        name: name of the collection; by default that in the schema's metadata.
        data_source: provider of the records; by default that in the schema's metadata.
        description: one sentence for people; by default that in the schema's metadata.
        require_band_metadata: whether a table without any ``{band}_metadata`` column is refused.
        credentials: of the rasters' files; by default those of ``table`` if it is a collection, else as for
            :func:`load`.

    Raises:
        CollectionError: if columns are missing or of another type than a collection has.
        SpecError: if ``table`` is not an Arrow object, or ``credentials`` are not understood.
    """
    dataset = table.dataset if isinstance(table, Collection) and not table.is_filtered else _as_dataset(table)
    check_contract(dataset.schema, where="the table")
    if require_band_metadata and not any(schema.is_band_field(field) for field in dataset.schema):
        raise CollectionError(
            "the table has no '{band}_metadata' column of band headers: build it with "
            "build_from_table(..., enrich_cog=True), or pass require_band_metadata=False to query records only"
        )
    footer = dataset.schema.metadata or {}
    return Collection(
        dataset=dataset,
        name=name or _text(footer, schema.NAME_KEY),
        data_source=data_source or _text(footer, schema.DATA_SOURCE_KEY),
        description=description or _text(footer, schema.DESCRIPTION_KEY),
        credentials=_credentials(credentials or getattr(table, "credentials", None), footer),
        backend=table.backend if isinstance(table, Collection) else None,
        cloud_config=table.cloud_config if isinstance(table, Collection) else None,
    )


def _credentials(
    given: str | Mapping[str, str] | None, footer: Mapping[bytes, bytes]
) -> str | Mapping[str, str] | None:
    """Return the given credentials, else the text by which a footer names them, else None.

    Raises:
        SpecError: if the given credentials are not understood.
    """
    try:
        checked: str | dict[str, str] | None = checked_credentials(given)
    except ValueError as error:
        raise SpecError(f"credentials: {error}") from None
    # As text and not as a mapping, which may name a function, because no file may decide which code a read imports.
    return checked or _text(footer, schema.CREDENTIALS_KEY) or None


def check_contract(table: pa.Schema, *, where: str) -> None:
    """Refuse a schema that does not have the columns of a collection.

    Raises:
        CollectionError: with every column that is missing or has a wrong type, and what to do.
    """
    remedy = "publish it with build_from_table, which normalizes records"
    if missing := [column for column in _READ_COLUMNS if column not in table.names]:
        raise CollectionError(f"{where} is not a collection: it has no columns {', '.join(missing)}; {remedy}")
    if not pa.types.is_timestamp(datetime := table.field(schema.DATETIME).type):
        raise CollectionError(
            f"{where} is not a collection: column 'datetime' is {datetime}, not a timestamp; {remedy}"
        )
    bbox = table.field(schema.BBOX).type
    corners = {child.name for child in schema.BBOX_TYPE}
    if not pa.types.is_struct(bbox) or not corners <= {child.name for child in bbox}:
        raise CollectionError(f"{where} is not a collection: column 'bbox' is {bbox}, not {schema.BBOX_TYPE}; {remedy}")


def _parquet_files(fs: pafs.FileSystem, root: str, path: str) -> dict[str, int]:
    """Return the size in bytes of every Parquet file, by path.

    Raises:
        CollectionError: if there is no file, or the files are those of stages.
    """
    info = fs.get_file_info(root)
    if info.type == pafs.FileType.NotFound:
        raise CollectionError(
            f"{path} does not exist: check the path, or publish a collection there with build_from_table"
        )
    if info.type == pafs.FileType.File:
        return {info.path: info.size}
    files = {found.path: found.size for found in list_files(fs, root, (".parquet",))}
    if not files:
        raise CollectionError(f"{path} has no *.parquet file, so it is not a published collection: check the path")
    folders = {tuple(file.removeprefix(root).strip("/").split("/")[:-1]) for file in files}
    if root.endswith(STAGES_SUFFIX) or any(part.endswith(STAGES_SUFFIX) for parts in folders for part in parts):
        # Because some stages have the columns of a collection too, their records would count twice.
        found = sorted({parts[0] for parts in folders if parts and parts[0].endswith(PUBLISHED_SUFFIXES)})
        inside = f", such as {', '.join(found)}" if found else ""
        raise CollectionError(f"{path} holds stages, not a collection: load a folder that was published{inside}")
    return files


def _fragments(
    fs: pafs.FileSystem, root: str, files: list[str], sizes: Mapping[str, int]
) -> list[ds.ParquetFileFragment]:
    """Return a fragment for each file, with its footer, so that no scan reads the footer again."""
    hive = ds.partitioning(schema.PARTITION_SCHEMA, flavor="hive")
    parquet = ds.ParquetFileFormat()

    def opened(file: str) -> ds.ParquetFileFragment:
        try:
            keys = hive.parse(file.removeprefix(root))
        except pa.ArrowInvalid as error:
            raise CollectionError(f"{file}: year, month and day in its path are not numbers ({error})") from error
        fragment = parquet.make_fragment(file, fs, partition_expression=keys, file_size=sizes.get(file))
        try:
            fragment.ensure_complete_metadata()
        except (OSError, pa.ArrowException) as error:
            raise unreadable(file, error) from error
        return fragment

    return each_file(fs, opened, files, takes_long=True)


def _common_schema(fragments: list[ds.ParquetFileFragment]) -> pa.Schema:
    """Return one schema for all files: missing columns are null, types are widened if one holds the other.

    All files of a collection have the same schema, except while a build replaces them one by one.
    """
    first = common = fragments[0].physical_schema
    named: set[str] = set()
    for fragment in fragments:
        named |= set(ds.get_partition_keys(fragment.partition_expression))
        if fragment.physical_schema.equals(first):
            continue
        try:
            common = pa.unify_schemas([common, fragment.physical_schema], promote_options="permissive")
        except pa.ArrowException as error:
            raise CollectionError(
                f"{fragment.path}: its columns differ from those of {fragments[0].path}: {error}"
            ) from error
    keys = [key for key in schema.PARTITION_SCHEMA if key.name in named]
    columns = [field for field in common if field.name not in named]
    return pa.schema([*columns, *keys], _whole_metadata(first.metadata or {}))


def _whole_metadata(metadata: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the footer keys that hold for all files; ``geo`` without its bbox, which is that of one file."""
    wanted = (
        schema.NAME_KEY,
        schema.DATA_SOURCE_KEY,
        schema.DESCRIPTION_KEY,
        schema.COLLECTION_VERSION_KEY,
        schema.CREDENTIALS_KEY,
    )
    kept = {key: metadata[key] for key in wanted if key in metadata}
    try:
        geo = json.loads(metadata.get(schema.GEO_KEY, b"null"))
        for column in geo["columns"].values():
            column.pop("bbox", None)
    except (ValueError, TypeError, KeyError, AttributeError):
        return kept  # absent, or in a form that readers could not use either
    return {**kept, schema.GEO_KEY: json.dumps(geo, sort_keys=True).encode()}


def _as_dataset(table: ArrowLike) -> ds.Dataset:
    if isinstance(table, ds.Dataset):
        return table
    if isinstance(table, pa.Table):
        return ds.dataset(table)
    if isinstance(table, pa.RecordBatchReader):
        return ds.dataset(_without_views(table.read_all()))
    if hasattr(table, "__arrow_c_stream__"):
        return ds.dataset(_without_views(pa.RecordBatchReader.from_stream(table).read_all()))
    if hasattr(table, "__arrow_c_array__"):
        return ds.dataset(pa.Table.from_batches([pa.record_batch(table)]))
    raise SpecError(f"{type(table).__name__} is not an Arrow object: pass a pyarrow Table, Dataset or Arrow stream")


def _without_views(table: pa.Table) -> pa.Table:
    plain = [field.with_type(_plain(field.type)) for field in table.schema]
    return table.cast(pa.schema(plain, table.schema.metadata))


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return a type with strings and binaries instead of their views, at every depth."""
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_struct(kind):
        return pa.struct([child.with_type(_plain(child.type)) for child in kind])
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_plain(kind.value_type)))
    return kind


def _text(metadata: Mapping[bytes, bytes], key: bytes) -> str:
    return metadata.get(key, b"").decode("utf-8", "replace")


def _name_of(root: str) -> str:
    """Return the collection's name by its path: ``.../scenes_records`` and ``.../scenes.parquet`` are ``scenes``."""
    name = PurePosixPath(root).name.removesuffix(".parquet")
    for suffix in PUBLISHED_SUFFIXES:
        name = name.removesuffix(suffix)
    return name
