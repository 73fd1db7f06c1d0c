"""Collect the items of one window page by page, and write them as one Parquet file at the end.

Pages differ in schema, and which columns have to become text is known only after the last page. The pages of a large
window therefore wait in a temporary file as Arrow messages, and memory holds some of them, the page that comes in and
the row group that is written.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import pyarrow as pa

from rasteret_assets.harvesting.items import AssetTypes, StacItem, batch_of
from rasteret_assets.harvesting.text_columns import Texts, conformed
from rasteret_assets.harvesting.unite import unite
from rasteret_assets.harvesting.window_ledger import digest_of
from rasteret_assets.harvesting.windows import utc_text
from rasteret_assets.schema import ASSETS, GEOMETRY, ID
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.disk import make_folder
from rasteret_assets.storage.workspace.streams import STREAM_OPTIONS

#: Footer key of the digest of a file's items, which tells what the file holds even if ledger and hashes are lost.
DIGEST_KEY: Final = b"rasteret_assets:items"
#: Rows or Arrow bytes that complete a row group; the bytes bound the memory that writing takes.
_GROUP_ROWS: Final = 4096
_GROUP_BYTES: Final = 64 * 2**20
#: Arrow bytes of a window above which its items go to the temporary file.
_HELD_BYTES: Final = 16 * 2**20
#: Items, or bytes of their JSON, that become a batch: more than the 100 or 250 items of most pages, because Arrow takes
#: a time for each column of a batch, whatever its length.
BATCH_ITEMS: Final = 1000
_PENDING_BYTES: Final = 12 * 2**20

_OPTIONS: Final[Mapping[str, Any]] = {"compression": "zstd", "compression_level": 3}


class _Piece(NamedTuple):
    first: int
    size: int


class Spool:
    """Holds batches of one or many windows in a temporary file, which is made when the first batch comes.

    Args:
        folder: in which the file lies; no other process sees it, because it has no name.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._file: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def put(self, batch: pa.RecordBatch) -> _Piece:
        """Append rows; return their place in the file."""
        if self._file is None:
            make_folder(Path(self._folder))
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115  (closed by __exit__)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema, options=STREAM_OPTIONS) as writer:
            writer.write_batch(batch)
        data = sink.getvalue()
        first = self._file.seek(0, 2)
        self._file.write(data)
        return _Piece(first, data.size)

    def get(self, piece: _Piece) -> Iterator[pa.RecordBatch]:
        """Yield the rows at a place that :meth:`put` returned."""
        self._file.seek(piece.first)
        with pa.ipc.open_stream(self._file.read(piece.size)) as reader:
            yield from reader


class WindowRows:
    """Takes the items of a window; an item that comes again is taken once.

    Args:
        spool: takes the items of a large window.
        types: of the assets of the harvest's items.
    """

    def __init__(self, spool: Spool, types: AssetTypes) -> None:
        self._spool, self._types = spool, types
        self._pieces: list[_Piece] = []
        self._held: list[pa.RecordBatch] = []
        self._batch_bytes = 0
        #: Items that are not a batch yet, and the bytes of their JSON.
        self._pending: list[StacItem] = []
        self._pending_bytes = 0
        self._schemas: dict[pa.Schema, None] = {}
        #: Hash of the content of each item, by its key.
        self.contents: dict[bytes, bytes] = {}
        #: Number of items that came again with the same content, and with another content.
        self.repeated = 0
        self.contradicted = 0
        self.without: Counter[str] = Counter()
        self._updated: datetime | None = None
        self._newest: datetime | None = None
        self._all_updated = True

    def add(self, items: Sequence[StacItem]) -> None:
        """Take items of a page."""
        fresh = []
        for item in items:  # a Python loop, because each item is compared with the items before it
            first = self.contents.setdefault(item.key, item.content)
            if first is item.content:
                fresh.append(item)
            else:
                self.repeated += first == item.content
                self.contradicted += first != item.content
        if fresh:
            self._note(fresh)
            self._pending += fresh
            self._pending_bytes += sum(len(item.assets) + len(item.geometry) for item in fresh)
            if len(self._pending) >= BATCH_ITEMS or self._pending_bytes >= _PENDING_BYTES:
                self._make_batches()

    def _make_batches(self) -> None:
        """Turn the items that are not a batch yet into batches."""
        items, self._pending, self._pending_bytes = self._pending, [], 0
        for first in range(0, len(items), BATCH_ITEMS):
            self._take(batch_of(items[first : first + BATCH_ITEMS], self._types))

    def _note(self, items: Sequence[StacItem]) -> None:
        for name in (ID, GEOMETRY):
            self.without[name] += sum(not item.document.get(name) for item in items)
        self.without[ASSETS] += sum(not item.has_assets for item in items)
        self._newest = _latest([self._newest, *(item.moment for item in items)])
        updated = [item.updated for item in items]
        self._all_updated &= None not in updated
        self._updated = _latest([self._updated, *updated])

    def keep(self, batch: pa.RecordBatch, contents: Mapping[bytes, bytes], newest: datetime | None) -> None:
        """Take rows of the window's file as they are.

        Args:
            batch: rows of the file.
            contents: hash of the content of each item, by its key.
            newest: time of the newest item of the file.
        """
        self.contents.update(contents)
        for name in (ID, GEOMETRY, ASSETS):
            self.without[name] += batch[name].null_count if name in batch.schema.names else len(batch)
        self._newest, self._all_updated = _latest([self._newest, newest]), False
        self._take(batch)

    @property
    def held_bytes(self) -> int:
        """Bytes of the items that memory holds: of Arrow, and of JSON for those that are not a batch yet."""
        return self._batch_bytes + self._pending_bytes

    @property
    def updated(self) -> str | None:
        """The newest ``updated`` of all items; None where an item has none."""
        return utc_text(self._updated) if self._updated and self._all_updated else None

    @property
    def newest(self) -> str | None:
        """Time of the newest item; None without one."""
        return None if self._newest is None else utc_text(self._newest)

    def _take(self, batch: pa.RecordBatch) -> None:
        self._schemas.setdefault(batch.schema)
        self._held.append(batch)
        self._batch_bytes += batch.nbytes
        if self.held_bytes > _HELD_BYTES:
            self._spill_batches()

    def spill(self) -> None:
        """Put what memory holds into the temporary file."""
        self._make_batches()
        self._spill_batches()

    def _spill_batches(self) -> None:
        self._pieces += [self._spool.put(batch) for batch in self._held]
        self._held, self._batch_bytes = [], 0

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for piece in self._pieces:
            yield from self._spool.get(piece)
        yield from self._held

    def write(self, workspace: Workspace, path: str, texts: Texts) -> None:
        """Write all items as one Parquet file, which replaces the file at ``path`` in one step.

        Args:
            workspace: of the collection.
            path: of the file.
            texts: columns and fields that are text in other windows; those that this window needs are added.

        Raises:
            WorkspaceError: if the file cannot be written.
        """
        self._make_batches()
        own = texts.copy()  # because other windows may add to ``texts`` meanwhile
        united = unite(list(self._schemas), own)
        schema = with_digest(united, digest_of(self.contents))
        write_batches(workspace, path, (conformed(batch, schema, own) for batch in self._batches()), schema)
        texts.add(own)


def with_digest(schema: pa.Schema, digest: str) -> pa.Schema:
    """Return a schema whose footer tells the digest of a window's items."""
    return schema.with_metadata({**(schema.metadata or {}), DIGEST_KEY: digest.encode()})


def write_batches(workspace: Workspace, path: str, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> None:
    """Write rows as one Parquet file in row groups of a bounded size."""
    with workspace.writer(path, schema, **_OPTIONS) as writer:
        held: list[pa.RecordBatch] = []
        for batch in batches:
            held.append(batch)
            if sum(map(len, held)) >= _GROUP_ROWS or sum(one.nbytes for one in held) >= _GROUP_BYTES:
                writer.write(pa.Table.from_batches(held, schema))
                held = []
        if held:
            writer.write(pa.Table.from_batches(held, schema))


def _latest(moments: Iterable[datetime | None]) -> datetime | None:
    return max(filter(None, moments), default=None)
