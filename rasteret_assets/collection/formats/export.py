"""Write records as a collection of their own: the files of a published one, from the rows of another.

The rows stream: what they hold in common is gathered from their small columns first, because it stands in the footers,
and then they are written to the files of their partitions, side by side. All lies in a folder beside the target, which
takes its name at the end.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets import schema
from rasteret_assets.collection.formats._export_files import PartitionFiles
from rasteret_assets.collection.pixels.record_table import RecordTable
from rasteret_assets.collection.table.dates import Interval, parse_date_range
from rasteret_assets.collection.table.query import acquired_within, partition_keys
from rasteret_assets.collection.table.scan import scan
from rasteret_assets.columns.instants import utc_instants
from rasteret_assets.errors import CollectionError, SpecError
from rasteret_assets.partitions import SIZES, PartitionBy, hive_folder, hive_keys, rows_by_partition
from rasteret_assets.publish.footer import PublishedFacts
from rasteret_assets.publish.parameters import changed_parameters, tell_parameters
from rasteret_assets.publish.stac import is_stac
from rasteret_assets.records.signatures import without_signatures
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.whole_files import naming_target
from rasteret_assets.storage.workspace import PART_NAME, Workspace

#: Files that are written side by side.
_FILES_AT_ONCE: Final = 64
#: Stands for the partition where all records go into one file.
_WHOLE: Final = ""
_FACT_COLUMNS: Final = (
    schema.DATETIME, schema.GEOMETRY, schema.BBOX, schema.START_DATETIME, schema.END_DATETIME, schema.ITEM_COLLECTION,
)  # fmt: skip


class Exported(RecordTable, Protocol):
    """What is exported: a collection, to those who must not import it."""

    @property
    def description(self) -> str:
        """One sentence for people."""
        ...

    @property
    def path(self) -> str | None:
        """Where it was opened; None in memory."""
        ...


def export_records(
    collection: Exported,
    path: str | Path,
    partition_by: PartitionBy | Sequence[str] | None,
    *,
    name: str,
    overwrite: bool,
) -> int:
    """Write a collection of its own; arguments, result and errors as ``Collection.export`` says."""
    by = _size_of(partition_by)
    target = _target(path, by, overwrite=overwrite)
    spec = CollectionSpec.of(
        path="-",  # not read, because the spec only gives the texts of footers
        name=name or collection.name or target.name.removesuffix(".parquet"),
        description=collection.description,
        data_source=collection.data_source,
        credentials=collection.credentials,
    )
    facts = _gather(collection, by, spec.name)
    if not facts:
        raise CollectionError("no record is left to export: compare the filters with what the collection holds")
    with naming_target(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
            beside = Path(folder) / target.name
            for keys in _together(list(facts)):
                with PartitionFiles({key: _file(beside, key, by) for key in keys}, facts, spec) as files:
                    for key, rows in _rows(collection, keys, by):
                        files.add(key, rows)
            _put(beside, target, Path(folder) / "replaced")
    return sum(fact.rows for fact in facts.values())


def _size_of(partition_by: PartitionBy | Sequence[str] | None) -> PartitionBy | None:
    """Return the size of partitions, which rasteret writes as ``("year", "month")``."""
    for by in SIZES:
        if partition_by == by or (
            not isinstance(partition_by, str) and partition_by and tuple(partition_by) == hive_keys(by)
        ):
            return by
    if partition_by is None:
        return None
    raise SpecError(f"partition_by={partition_by!r} must be one of {', '.join(map(repr, SIZES))}, or None for one file")


def _target(path: str | Path, by: PartitionBy | None, *, overwrite: bool) -> Path:
    """Return where to write; refuse what is there, and places where nothing can appear at once."""
    if "://" in str(path):
        raise SpecError(
            f"{str(path)!r} is not on a disk: files of an object store appear one by one, so that others would see "
            "half a collection. Export to a disk and copy it"
        )
    target = Path(path).expanduser().absolute()
    if (by is None) != (target.suffix == ".parquet"):
        raise SpecError(
            f"{target.name}: one file (partition_by=None) is called such as 'scenes.parquet', and a folder of "
            "partitions is not"
        )
    if Workspace.at(str(target)).states():
        raise SpecError(f"{target} is where a collection is built: choose another place")
    if os.path.lexists(target) and not overwrite:
        raise SpecError(f"{target} exists: choose another place, or say overwrite=True")
    return target


def _file(folder: Path, key: str, by: PartitionBy | None) -> Path:
    return folder if by is None else folder / hive_folder(key, by) / PART_NAME


def _gather(collection: Exported, by: PartitionBy | None, name: str) -> dict[str, PublishedFacts]:
    """Return the facts of the rows of each file by partition key, undated ones last."""
    facts: dict[str, PublishedFacts] = {}
    columns = {column: pc.field(column) for column in _FACT_COLUMNS if column in collection.schema.names}
    own_collection = name if is_stac(collection.schema) else None
    for batch in collection.batches(columns):
        table = pa.Table.from_batches([batch])
        for key, rows in _split(table, by):
            facts.setdefault(key, PublishedFacts()).add(_as_binary(rows), own_collection)
    return dict(sorted(facts.items()))


def _split(table: pa.Table, by: PartitionBy | None) -> Iterator[tuple[str, pa.Table]]:
    """Yield rows by partition key, in their order."""
    if by is None:
        yield _WHOLE, table
        return
    instants = utc_instants(table[schema.DATETIME]).combine_chunks()
    parts = list(rows_by_partition(instants, by))
    for key, rows in parts:
        yield key, table if len(parts) == 1 else table.take(pa.array(rows))


def _together(keys: list[str]) -> Iterator[list[str]]:
    """Yield partitions whose files are written side by side, undated ones by themselves."""
    dated = [key for key in keys if key != schema.UNDATED]
    for first in range(0, len(dated), _FILES_AT_ONCE):
        yield dated[first : first + _FILES_AT_ONCE]
    if schema.UNDATED in keys:
        yield [schema.UNDATED]


def _rows(collection: Exported, keys: list[str], by: PartitionBy | None) -> Iterator[tuple[str, pa.Table]]:
    """All columns of the rows of some partitions, without the hive keys that stand in their paths.

    Addresses are published as they are where this package published them: what it took for a secret is gone, and the
    rule by which it did is not known here.
    """
    is_published = collection.path is not None and bool(Workspace.at(collection.path).states())
    dropped = {*(hive_keys(by) if by else ()), *(partition_keys(collection.dataset) if by else ())}
    columns = {column: pc.field(column) for column in collection.schema.names if column not in dropped}
    wanted = set(keys)
    kept, taken = set[str](), set[str]()
    part = _of_period(collection, keys, by)
    for batch in scan(part.dataset, columns, part.expression, part.areas, prefetch=False):
        given = _as_binary(pa.Table.from_batches([batch]))
        table = given if is_published else without_signatures(given)
        if not is_published:
            stayed, gone = changed_parameters(given, table)
            kept |= stayed
            taken |= gone
        yield from ((key, rows) for key, rows in _split(table, by) if key in wanted)
    if not is_published:
        tell_parameters(kept, taken)


def _of_period(collection: Exported, keys: list[str], by: PartitionBy | None) -> Exported:
    """Return the records of the time of some partitions, so that no file of another time is read."""
    if by is None:
        return collection
    if keys == [schema.UNDATED]:
        return collection.where(pc.field(schema.DATETIME).is_null())
    interval = Interval(start=parse_date_range(keys[0]).start, stop=parse_date_range(keys[-1]).stop)
    within = acquired_within(collection.schema, interval, partition_keys=partition_keys(collection.dataset))
    return collection if within is None else collection.where(within)


def _as_binary(table: pa.Table) -> pa.Table:
    """Return rows with footprints as bytes, whatever type they are stored in."""
    position = table.schema.get_field_index(schema.GEOMETRY)
    column = table.column(position)
    if isinstance(column.type, pa.ExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    return table.set_column(position, schema.GEOMETRY, column.cast(pa.binary()))


def _put(beside: Path, target: Path, aside: Path) -> None:
    """Rename the written files to their place, and move aside whatever had that name."""
    is_replaced = os.path.lexists(target) and (beside.is_dir() or target.is_dir())
    if is_replaced:
        target.rename(aside)
    try:
        beside.replace(target)
    except OSError:
        if is_replaced:
            aside.rename(target)
        raise
