"""Write rows of groups, and the references of their tiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np

from rasteret_assets.collection.formats.virtual_zarr._icechunk_files import checksum_of, location_of
from rasteret_assets.collection.formats.virtual_zarr._icechunk_records import NewRecords, Written
from rasteret_assets.collection.formats.virtual_zarr._zarr_layout import Member, levels_of
from rasteret_assets.collection.formats.virtual_zarr._zarr_nodes import (
    append_rows,
    level_names,
    open_group,
    rewrite_row,
)
from rasteret_assets.collection.pixels.band import BandHeader
from rasteret_assets.errors import CollectionError
from rasteret_assets.storage.process.processes import run_sync


class Writer:
    """Writes records as rows of their groups, and counts them.

    Args:
        store: Icechunk's, of a session.
        root: zarr group of the store.
        new: the records.
        written: what the repository holds.
    """

    def __init__(self, store: Any, root: Any, new: NewRecords, written: Sequence[Written]) -> None:
        self._store = store
        self._root = root
        self._new = new
        self._written = {one.name: one for one in written}
        self._positions: dict[str, dict[str, int]] = {}
        self._arrays: dict[str, int] = {}
        self._counts: Counter[str] = Counter()
        self._appended: set[str] = set()
        self._rewritten: set[tuple[str, str]] = set()
        #: References that the session holds in memory.
        self.held = 0

    def go_on(self, store: Any, root: Any) -> None:
        """Write to another session, which holds nothing in memory yet; arguments as for the class."""
        self._store, self._root, self.held = store, root, 0

    @property
    def report(self) -> dict[str, Any]:
        """Return the fields of ``IcechunkReport`` that count what the call wrote."""
        rewritten = {record for _, record in self._rewritten}
        moved = {record for _, record in self._new.replaced - self._rewritten} & self._appended
        return {
            "groups": tuple(sorted(self._arrays)),
            "arrays": sum(self._arrays.values()),
            "references": self._counts["references"],
            "unchecked": self._counts["unchecked"],
            "appended": len(self._appended - rewritten - moved),
            "rewritten": tuple(sorted(rewritten)),
            "moved": tuple(sorted(moved)),
        }

    def write(self, members: Sequence[tuple[int, Member]]) -> None:
        """Write some records, in order.

        Args:
            members: with the positions of their records among the new ones.

        Raises:
            CollectionError: if Icechunk cannot read the address of a file.
        """
        together: dict[str, list[tuple[int, Member]]] = {}
        for number, member in members:
            together.setdefault(member.layout.name, []).append((number, member))
        for name, several in together.items():
            self._write_group(name, several)

    def _write_group(self, name: str, several: Sequence[tuple[int, Member]]) -> None:
        group = open_group(self._root, several[0][1])
        layout = several[0][1].layout
        versions = self._new.versions_of(layout.bands)
        positions, held = self._held(name)
        fresh = [(number, member) for number, member in several if member.record.id not in positions]
        for number, member in several:
            record = member.record.id
            if (position := positions.get(record)) is not None and held[position] != versions[number]:
                rewrite_row(group, member, versions[number], position)
                self._refer(member, position, clear=True)
                self._rewritten.add((name, record))
                self._arrays[name] = len(layout.arrays) * len(layout.levels)
        if fresh:
            self._arrays[name] = len(layout.arrays) * len(layout.levels)
            start = append_rows(group, [member for _, member in fresh], versions[[number for number, _ in fresh]])
            for position, (_, member) in enumerate(fresh, start):
                self._refer(member, position)
                self._appended.add(member.record.id)

    def _held(self, name: str) -> tuple[dict[str, int], Any]:
        """Return the positions of the records that a group held before this call, and their versions."""
        if name not in self._written:
            return {}, ()
        one = self._written[name]
        if name not in self._positions:
            self._positions[name] = {record: place for place, record in enumerate(one.ids.to_pylist())}
        return self._positions[name], one.versions

    def _refer(self, member: Member, position: int, *, clear: bool = False) -> None:
        """Write the references of the tiles of a record, of all arrays and levels."""
        layout = member.layout
        for array, (header, href) in zip(layout.arrays, member.files, strict=True):
            location = location_of(href, f"record {member.record.id!r}, band {array.bands[0]!r}")
            checksum = checksum_of(location, header.file)
            for name, level in zip(level_names(layout), levels_of(header), strict=True):
                path = f"{layout.name}/{name}/{array.name}"
                if clear:
                    self._clear(path, level, position, is_image=bool(array.samples))
                self._set(path, level, location, checksum, position, is_image=bool(array.samples))

    def _set(
        self, path: str, level: BandHeader, location: str, checksum: str | datetime | None, position: int, *,
        is_image: bool,
    ) -> None:  # fmt: skip
        sizes = level.tile_byte_counts.ravel()
        # Tiles that are not stored have no reference: Zarr reads the fill value there, as GDAL does.
        stored = (sizes > 0) & (level.tile_offsets.ravel() > 0)
        locations = [location if one else "" for one in stored.tolist()]
        image = (1,) if is_image else ()
        refused = self._store.set_virtual_refs_arr(
            path,
            (1, *image, *level.tile_offsets.shape),
            locations,
            level.tile_offsets.ravel().astype(np.uint64),
            sizes.astype(np.uint64),
            arr_offset=(position, *(0 for _ in image), 0, 0),
            checksum=checksum,
        )
        if refused:
            raise CollectionError(f"no container of the Icechunk repository covers {location}: add one to its config")
        count = int(stored.sum())
        self._counts["references"] += count
        self.held += count
        self._counts["unchecked"] += 0 if checksum is not None else count

    def _clear(self, path: str, level: BandHeader, position: int, *, is_image: bool) -> None:
        """Delete the references of a record to tiles that its file no longer stores."""
        rows, columns = np.nonzero((level.tile_byte_counts == 0) | (level.tile_offsets == 0))
        image = "0/" if is_image else ""
        keys = [
            f"{path}/c/{position}/{image}{row}/{column}"
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        ]

        async def delete() -> None:
            for key in keys:
                await self._store.delete(key)

        if keys:
            run_sync(delete())
