"""The folders of a collection, with the path of each of its files, its states and its locks.

<root>/<name>_records/year=2024/month=1/part-0.parquet     published, nothing else (year=2024/ by year, and so on)
<root>/<name>_stages/<stage>/<partition>.arrows            raw and normalized records
<root>/<name>_stages/<stage>/<partition>.parquet           rejected records, band metadata (the ledger)
<root>/<name>_stages/headers/<partition>/                  files of headers, to which new ones are added
<root>/<name>_stages/collection/<partition>.json           state of a published partition, written last
<root>/<name>_stages/source.json                           profile of the record table
<root>/<name>_stages/source_files/                         profile of each source file
<root>/<name>_stages/locks/source                          lock of the profile
<root>/<name>_stages/locks/<partition>                     lock of a partition, with the number of its last holder
<root>/<name>_stages/harvest.json                          the ledger of a harvest of STAC items
<root>/<name>_stages/harvested_items/<window>.parquet      hashes of the items that a window has
<root>/<name>_stages/.writing/                             files that are being written
<root>/<name>_harvest/<window>.parquet                     harvested STAC items, which a build reads
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow.fs as pafs

from rasteret_assets.errors import DamagedFileError, WorkspaceError
from rasteret_assets.partitions import SIZES, PartitionBy, hive_folder, partition_of_folder
from rasteret_assets.schema import NORMALIZED, RAW
from rasteret_assets.spec import HARVEST_SUFFIX, PUBLISHED_SUFFIXES, CollectionSpec
from rasteret_assets.storage.filesystems import each_file, list_files, resolve_filesystem
from rasteret_assets.storage.io_errors import finding, writing
from rasteret_assets.storage.workspace import disk
from rasteret_assets.storage.workspace._locks import held
from rasteret_assets.storage.workspace.documents import is_state, lost_state
from rasteret_assets.storage.workspace.files import Files
from rasteret_assets.storage.workspace.holds import Hold
from rasteret_assets.storage.workspace.streams import STREAM_SUFFIX

_log = logging.getLogger(__name__)

PART_NAME = "part-0.parquet"
STATE_STAGE = "collection"
# Names of locks, which no partition has as its key.
_SOURCE_LOCK: Final = "source"
_HARVEST_LOCK: Final = "harvest"
_TRIES: Final = 20
# Most locks that a build confirms before it publishes one of its partitions, because each costs a request.
_CONFIRMED_AT_MOST: Final = 16
#: Suffix of the folder beside a published one, which holds everything else of the collection.
STAGES_SUFFIX: Final = "_stages"

# Locks that the running code holds, by filesystem and path; a thread with a copy of the context holds them too.
_HOLDS: ContextVar[Mapping[str, Hold]] = ContextVar("holds", default={})  # noqa: B039  (never changed in place)


@dataclass(frozen=True, kw_only=True)
class Workspace(Files):
    """The two folders of one collection on one filesystem.

    Args:
        fs: filesystem of both folders.
        stages: folder of everything that is not published.
        published: folder of the published dataset.
        partition_by: size of the partitions, on which the place of undated records depends.
    """

    published: str
    partition_by: PartitionBy = "month"

    @classmethod
    def of(cls, spec: CollectionSpec, filesystem: Any = None) -> Workspace:
        """Return the workspace of a collection.

        Args:
            spec: of the collection.
            filesystem: pyarrow or fsspec filesystem that takes precedence over the path's own.
        """
        return cls.at(str(spec.published_path), filesystem, partition_by=spec.partition_by)

    @classmethod
    def at(cls, published_path: str, filesystem: Any = None, *, partition_by: PartitionBy = "month") -> Workspace:
        """Return the workspace of a collection published at ``published_path`` (a path or URI).

        ``partition_by`` may be left out for reading, because the paths of existing files tell their partitions.
        """
        fs, published = resolve_filesystem(published_path, filesystem)
        published = published.rstrip("/")
        # One suffix only, because stac_records and records_stac are two names.
        suffix = next((suffix for suffix in PUBLISHED_SUFFIXES if published.endswith(suffix)), "")
        stem = published.removesuffix(suffix)
        return cls(fs=fs, published=published, stages=f"{stem}{STAGES_SUFFIX}", partition_by=partition_by)

    # --- paths -------------------------------------------------------------------------------------------------------

    def published_file(self, key: str) -> str:
        """Return the path at which a partition's file is published."""
        return f"{self.published}/{hive_folder(key, self.partition_by)}/{PART_NAME}"

    def outdated_files(self, key: str) -> list[str]:
        """Return the paths at which a partition's file may lie from a time when ``partition_by`` was another.

        Only undated records have such paths. The path of any other partition depends on its key alone.
        """
        paths = {f"{self.published}/{hive_folder(key, by)}/{PART_NAME}" for by in SIZES}
        return sorted(paths - {self.published_file(key)})

    @property
    def harvested(self) -> str:
        """Folder of harvested STAC items, beside the other two folders."""
        return f"{self.stages.removesuffix(STAGES_SUFFIX)}{HARVEST_SUFFIX}"

    def harvested_file(self, window: str) -> str:
        """Return the path of the file with the items of a window."""
        return f"{self.harvested}/{window}.parquet"

    @property
    def harvest_ledger(self) -> str:
        """Path of the harvest's ledger: which windows were harvested when."""
        return f"{self.stages}/harvest.json"

    def harvest_hashes(self, window: str) -> str:
        """Return the path of the hashes of a window's items."""
        return f"{self.stages}/harvested_items/{window}.parquet"

    def partition_of(self, path: str) -> str | None:
        """Return the partition of a published file by its path; None for any other path."""
        found = self._partition_of(path)
        return found[0] if found else None

    def size_of(self, path: str) -> PartitionBy | None:
        """Return the size of the partition of a published file (year, month or day); None for any other path."""
        found = self._partition_of(path)
        return found[1] if found else None

    def _partition_of(self, path: str) -> tuple[str, PartitionBy] | None:
        folder, _, name = path.removeprefix(f"{self.published}/").rpartition("/")
        return partition_of_folder(folder) if name == PART_NAME else None

    def published_sizes(self) -> set[PartitionBy]:
        """Return the sizes of the published partitions: several while one size takes the place of another."""
        files = list_files(self.fs, self.published, (".parquet",))
        return {by for by in (self.size_of(info.path) for info in files) if by is not None}

    def stage_file(self, stage: str, key: str) -> str:
        """Return the path of a stage's table for one partition."""
        suffix = STREAM_SUFFIX if stage in (RAW, NORMALIZED) else ".parquet"
        return f"{self.stages}/{stage}/{key}{suffix}"

    def state_file(self, key: str) -> str:
        """Return the path of a published partition's state."""
        return f"{self.stages}/{STATE_STAGE}/{key}.json"

    def remove(self, path: str) -> bool:
        """Delete a file and the folders that are then empty; return False where the file does not exist.

        Raises:
            WorkspaceError: if the file cannot be deleted.
        """
        self.before_put(path)
        if not self.has(path):
            return False
        folder = path.rpartition("/")[0]
        with writing(path):
            if not self.is_local:
                with suppress(FileNotFoundError):  # another process may delete it first
                    self.fs.delete_file(path)
                self._remove_marker(folder)
                return True
            self.refuse_links(path)
            Path(path).unlink(missing_ok=True)
        while folder not in (self.published, self.stages) and folder.startswith((self.published, self.stages)):
            try:
                # Only an empty folder, because another partition may put its file there at this moment.
                Path(folder).rmdir()
            except OSError:
                break
            folder = folder.rpartition("/")[0]
        return True

    def _remove_marker(self, folder: str) -> None:
        """Delete the marker of a partition's empty folder, but not those of the folders above, which others use too."""
        inside = pafs.FileSelector(folder, allow_not_found=True)
        if folder.startswith(f"{self.published}/") and not self.fs.get_file_info(inside):
            # Many stores have no markers of folders, and some raise then.
            with suppress(FileNotFoundError):
                self.fs.delete_dir(folder)

    # --- partitions --------------------------------------------------------------------------------------------------

    def state(self, key: str) -> dict[str, Any] | None:
        """Read the state of a published partition, or return None where it has none.

        A state that is damaged, or has an unknown form, is logged and returned as a lost state, whose partition is
        built again.

        Raises:
            CollectionError: if the state cannot be read, or a newer version wrote it.
        """
        path = self.state_file(key)
        try:
            document = self.read_json(path)
        except DamagedFileError as error:
            _log.warning("%s: damaged (%s); the next build makes partition %s again", path, error.__cause__, key)
            return lost_state()
        if document is None or is_state(document):
            return document
        _log.warning("%s: not the state of a partition; the next build makes partition %s again", path, key)
        return lost_state()

    def states(self) -> dict[str, dict[str, Any]]:
        """Read the state of every published partition, by key, in key order; errors as for :meth:`state`."""
        folder = pafs.FileSelector(f"{self.stages}/{STATE_STAGE}", allow_not_found=True)
        with finding(folder.base_dir):
            infos = self.fs.get_file_info(folder)
        names = sorted(info.base_name for info in infos if info.base_name.endswith(".json"))
        keys = [name.removesuffix(".json") for name in names]
        found = zip(keys, each_file(self.fs, self.state, keys), strict=True)
        return {key: state for key, state in found if state is not None}

    def failures(self, states: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, int]:
        """Count the headers that published partitions do not have, by error class.

        Args:
            states: states of the partitions; read from the workspace when omitted.
        """
        counts: Counter[str] = Counter()
        for state in (self.states() if states is None else states).values():
            counts.update(state.get("failures", {}))
        return dict(sorted(counts.items()))

    @contextmanager
    def lock(self, key: str) -> Iterator[Hold]:
        """Wait for the lock of a partition, which one build at a time holds, and hold it during the block.

        Code that runs under the lock may take it again and gets the same hold. So may threads with a copy of its
        context (``contextvars.copy_context``), such as those of
        :func:`~rasteret_assets.storage.filesystems.each_file`; any other thread waits as another process does.

        Raises:
            WorkspaceError: if the lock cannot be written.
        """
        waiting = f"waiting for another run that builds {key} of {self.published}"
        with self._lock(key, f"partition {key} of {self.published}", waiting) as hold:
            yield hold

    @contextmanager
    def lock_source(self) -> Iterator[Hold]:
        """Wait for the lock of the profile, which one process at a time holds; otherwise as :meth:`lock`."""
        waiting = f"waiting for another process that profiles the record table of {self.published}"
        with self._lock(_SOURCE_LOCK, f"the profile of the record table of {self.published}", waiting) as hold:
            yield hold

    @contextmanager
    def lock_harvest(self) -> Iterator[Hold]:
        """Wait for the lock of the harvest, which one process at a time holds; otherwise as :meth:`lock`."""
        waiting = f"waiting for another process that harvests the items of {self.published}"
        with self._lock(_HARVEST_LOCK, f"the harvest of {self.published}", waiting) as hold:
            yield hold

    def is_private(self, path: str) -> bool:
        """Return whether only its owner may read a file; harvested items hold addresses with what grants access too."""
        return path.startswith(f"{self.harvested}/") or super().is_private(path)

    def private_folders(self, path: str) -> list[str]:
        """Return the folders of a private file, outermost first."""
        return [self.harvested] if path.startswith(f"{self.harvested}/") else super().private_folders(path)

    @contextmanager
    def _lock(self, name: str, what: str, waiting: str) -> Iterator[Hold]:
        path = f"{self.stages}/locks/{name}"
        name = f"{self.fs.type_name}:{path}"
        if (hold := _HOLDS.get().get(name)) is not None and not hold.is_over:
            yield hold
            return
        if self.is_local:
            with writing(path):
                self.refuse_links(path)
        with held(self.fs, path, lambda: _log.info(waiting), what=what) as hold:
            before = _HOLDS.set({**_HOLDS.get(), name: hold})
            try:
                yield hold
            finally:
                _HOLDS.reset(before)

    def derive_json(self, path: str, derived: Callable[[], Mapping[str, Any] | None]) -> None:
        """Bring the document at ``path`` up to date, which is derived from documents that other processes may change.

        Args:
            path: of the document.
            derived: returns the document, derived from the others as they are now; None if it is to be deleted. Called
                again if another process replaced the document meanwhile, because that process may have read older or
                newer documents.

        Raises:
            WorkspaceError: if the document cannot be written.
        """
        # Under a lock on storage that cannot compare and swap.
        with self.lock(path.rpartition("/")[2]) if self.conditional is None else nullcontext():
            for _ in range(_TRIES):
                found, tag = self.read_tagged(path)
                document = derived()
                if document is None:
                    self.remove(path)
                    return
                if found == document or self.swap_json(path, document, tag)[0]:
                    return
        raise WorkspaceError(f"{path} cannot be written: other processes replace it again and again; build again later")

    def before_put(self, path: str) -> None:  # noqa: ARG002  (a process that lost one lock stood still too long for all)
        """Refuse to put a file in place if the running code has lost one of its locks.

        Raises:
            LockLostError: naming the partition.
        """
        for hold in self._holds().values():
            hold.check()

    def confirm_other_holds(self, key: str) -> None:
        """Confirm the locks of other partitions before ``key`` is published, if the running code holds fewer than 16.

        Raises:
            LockLostError: naming a partition that another build has taken over.
        """
        others = {path: hold for path, hold in self._holds().items() if path != f"{self.stages}/locks/{key}"}
        if len(others) < _CONFIRMED_AT_MOST:
            each_file(self.fs, lambda path: others[path].confirm(), list(others))

    def _holds(self) -> dict[str, Hold]:
        """Return the locks that the running code holds in this workspace, by path."""
        mine = f"{self.fs.type_name}:"
        return {
            path: hold
            for name, hold in _HOLDS.get().items()
            if (path := name.removeprefix(mine)).startswith(f"{self.stages}/") and not hold.is_over
        }

    def refuse_links(self, path: str) -> None:
        """Refuse a path on a local disk that leads through a symbolic link below one of the workspace's folders.

        Raises:
            OSError: naming the link.
        """
        disk.refuse_links(path, [self.stages, self.published, self.harvested])

    def exists(self) -> bool:
        """Return whether the published folder has any file."""
        selector = pafs.FileSelector(self.published, allow_not_found=True, recursive=True)
        with finding(self.published):
            return any(info.type == pafs.FileType.File for info in self.fs.get_file_info(selector))
