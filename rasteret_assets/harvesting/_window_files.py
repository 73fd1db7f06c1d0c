"""Keep harvested items in one Parquet file per window, with columns that fit together as one record table."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rasteret_assets.errors import DamagedFileError
from rasteret_assets.harvesting.items import key_of
from rasteret_assets.harvesting.text_columns import Texts, conformed
from rasteret_assets.harvesting.unite import unite
from rasteret_assets.harvesting.window_ledger import (
    Changes,
    Hashes,
    changes,
    digest_of,
    read_hashes,
    write_hashes,
)
from rasteret_assets.harvesting.window_rows import DIGEST_KEY, WindowRows, with_digest, write_batches
from rasteret_assets.schema import ASSETS, ID, ITEM_COLLECTION
from rasteret_assets.storage.filesystems import each_file, list_files
from rasteret_assets.storage.workspace import Workspace

_log = logging.getLogger(__name__)

#: Names of the files that a harvest writes; other files in the folder are left alone.
_OURS: Final = re.compile(r"(\d{4}(-\d\d(-\d\d(T\d\d)?)?)?|before|after|all|undated)\.parquet")


class HarvestStore:
    """Keeps one Parquet file per window of a harvest, whose columns fit together.

    Args:
        workspace: of the collection, whose lock on the harvest is held.
        texts: columns and fields that are text because items disagree about their type; windows add to these.
    """

    def __init__(self, workspace: Workspace, texts: Texts) -> None:
        self.workspace = workspace
        self.texts = texts
        self.present = {
            name.removesuffix(".parquet")
            for info in list_files(workspace.fs, workspace.harvested, (".parquet",))
            if _OURS.fullmatch(name := info.base_name)
        }
        self.is_written = False
        self._guard = threading.Lock()

    def put(self, key: str, rows: WindowRows) -> tuple[str, Changes, bool]:
        """Write the items of a window to its file, unless the file holds these items already.

        Args:
            key: of the window.
            rows: all of its items.

        Returns:
            Digest of the items, how many of them changed, and whether the file was replaced.

        Raises:
            WorkspaceError: if the file cannot be written.
        """
        digest, path = digest_of(rows.contents), self.workspace.harvested_file(key)
        before = read_hashes(self.workspace, key) if key in self.present else None
        rewritten = (self._digest(key) or digest_of({})) != digest
        if rewritten and rows.contents:
            rows.write(self.workspace, path, self.texts)
        elif rewritten:
            self.workspace.remove(path)
        # After the file, because hashes that are newer than the file would hide that the file is old.
        if before is None or digest_of(before) != digest:
            write_hashes(self.workspace, key, rows.contents)
        with self._guard:
            (self.present.add if rows.contents else self.present.discard)(key)
            self.is_written |= rewritten
        return digest, changes(before or {}, rows.contents), rewritten

    def _digest(self, key: str) -> str | None:
        """Return the digest of the items in a window's file; None without a file, empty where the file is damaged."""
        if key not in self.present:
            return None
        try:
            schema = self.workspace.read_schema(self.workspace.harvested_file(key))
        except DamagedFileError as error:
            _log.warning("%s: damaged; it is made anew (%s)", error.path, error.__cause__)
            return ""
        return None if schema is None else (schema.metadata or {}).get(DIGEST_KEY, b"").decode()

    def remove(self, key: str) -> int:
        """Delete the file of a window; return how many items it held."""
        before = read_hashes(self.workspace, key)
        self.workspace.remove(self.workspace.harvested_file(key))
        self.workspace.remove(self.workspace.harvest_hashes(key))
        self.present.discard(key)
        return len(before or {})

    def kept_rows(self, key: str, seen: npt.NDArray[np.uint64]) -> Iterator[tuple[pa.RecordBatch, Hashes]]:
        """Yield the rows of a window's file whose items were not seen in this harvest, with the hashes of these items.

        Args:
            key: of the window.
            seen: first halves of the keys of all items that were seen.

        Raises:
            CollectionError: if the file cannot be read.
        """
        hashes = read_hashes(self.workspace, key)
        if hashes is not None and np.isin(_first_halves(hashes), seen).all():
            return
        for batch in self.workspace.read_batches(self.workspace.harvested_file(key)):
            names, collections = (
                batch[name].to_pylist() if name in batch.schema.names else [None] * len(batch)
                for name in (ID, ITEM_COLLECTION)
            )
            # A Python loop, because a key is a hash of two texts. Items without an id are dropped: none can be told
            # from another.
            keys = [
                key_of(collection, name) if name is not None else b""
                for name, collection in zip(names, collections, strict=True)
            ]
            mask = ~np.isin(_first_halves(keys), seen) & np.array([bool(key) for key in keys], bool)
            if mask.any():
                chosen = [key for key, is_kept in zip(keys, mask, strict=True) if is_kept]
                # The key stands in for a lost hash, so that the item counts as changed once it can be read again.
                yield batch.filter(pa.array(mask)), {item: (hashes or {}).get(item, item) for item in chosen}

    def windows_that_share(self) -> list[str]:
        """Return the windows that share an item with another, for example because the item's time has changed."""
        keys = sorted(self.present)
        hashes = each_file(self.workspace.fs, self._items, keys)
        ends = np.cumsum([0, *map(len, hashes)])
        every = np.concatenate([np.empty(0, np.uint64), *hashes])
        _, inverse, counts = np.unique(every, return_inverse=True, return_counts=True)
        places = np.searchsorted(ends, np.flatnonzero(counts[inverse] > 1), side="right") - 1
        return [keys[place] for place in np.unique(places)]

    def _items(self, key: str) -> npt.NDArray[np.uint64]:
        """Return the first halves of the keys of a window's items."""
        return _first_halves(read_hashes(self.workspace, key) or ())

    def settle_types(self) -> list[str]:
        """Rewrite the files whose columns do not fit those of the other files; return the keys of their windows.

        Raises:
            CollectionError: if a file cannot be read.
            WorkspaceError: if a file cannot be written.
        """
        keys = sorted(self.present)
        schemas = each_file(self.workspace.fs, self._schema, keys)
        found = {key: schema for key, schema in zip(keys, schemas, strict=True) if schema is not None}
        if not found:
            return []
        unite(list(dict.fromkeys(found.values())), self.texts)
        odd = [key for key, schema in found.items() if not _fits(schema, self.texts)]
        for key in odd:
            schema = with_digest(unite([found[key]], self.texts.copy()), self._digest(key) or "")
            path = self.workspace.harvested_file(key)
            write_batches(self.workspace, path, self._rewritten(path, schema), schema)
        if odd:
            _log.info(
                "%s: items disagree about the types of %s, which are kept as text", self.workspace.harvested,
                ", ".join(sorted(self.texts.columns | self.texts.asset_fields)),
            )  # fmt: skip
        return odd

    def _schema(self, key: str) -> pa.Schema | None:
        found = self.workspace.read_schema(self.workspace.harvested_file(key))
        return None if found is None else found.remove_metadata()

    def _rewritten(self, path: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        for batch in self.workspace.read_batches(path):
            yield conformed(batch, schema, self.texts)


def _first_halves(keys: Iterable[bytes]) -> npt.NDArray[np.uint64]:
    return np.frombuffer(b"".join(key or bytes(16) for key in keys), "<u8")[::2]


def _fits(schema: pa.Schema, texts: Texts) -> bool:
    """Tell whether the columns and fields of assets that ``texts`` names are text."""
    if any(field.name in texts.columns and not pa.types.is_string(field.type) for field in schema):
        return False
    assets = schema.field(ASSETS).type if ASSETS in schema.names else pa.null()
    if not pa.types.is_struct(assets):
        return True
    fields = [child for asset in assets if pa.types.is_struct(asset.type) for child in asset.type]
    return not any(child.name in texts.asset_fields and not pa.types.is_string(child.type) for child in fields)
