"""Where a collection lies and how it is written: whole files, replaced in one step.

<root>/<name>_records/year=2024/month=1/part-0.parquet     published, nothing else (year=2024/ by year, and so on)
<root>/<name>_stages/<stage>/<partition>.arrows            raw and normalized records
<root>/<name>_stages/<stage>/<partition>.parquet           rejected records, band metadata (the ledger)
<root>/<name>_stages/headers/<partition>/                  files of headers, to which new ones are added
<root>/<name>_stages/collection/<partition>.json           state of a published partition, written last
<root>/<name>_stages/source.json                           what the last look at the source found
<root>/<name>_stages/.writing/                             files that are being written
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow.fs as pafs

from rasteret_assets.partitions import SIZES, PartitionBy, hive_folder, partition_of_folder
from rasteret_assets.schema import NORMALIZED, RAW
from rasteret_assets.spec import PUBLISHED_SUFFIXES, CollectionSpec
from rasteret_assets.storage.files import Files, looking
from rasteret_assets.storage.filesystems import each_file, list_files, resolve_filesystem
from rasteret_assets.storage.locks import held
from rasteret_assets.storage.streams import STREAM_SUFFIX

_log = logging.getLogger(__name__)

PART_NAME = "part-0.parquet"
STATE_STAGE = "collection"
#: Ends the name of the folder beside a published one, in which all else of its collection lies.
STAGES_SUFFIX: Final = "_stages"


@dataclass(frozen=True, kw_only=True)
class Workspace(Files):
    """The two folders of one collection on one filesystem.

    Args:
        fs: filesystem of both.
        stages: folder of everything that is not published.
        published: folder of the published dataset.
        partition_by: size of the partitions that are to be published, which decides where undated records go.
    """

    published: str
    partition_by: PartitionBy = "month"

    @classmethod
    def of(cls, spec: CollectionSpec, filesystem: Any = None) -> Workspace:
        """Return the workspace of a collection.

        Args:
            spec: of the collection, which names a place to publish in.
            filesystem: pyarrow or fsspec filesystem that takes precedence over the path's own.
        """
        return cls.at(str(spec.published_path), filesystem, partition_by=spec.partition_by)

    @classmethod
    def at(cls, published_path: str, filesystem: Any = None, *, partition_by: PartitionBy = "month") -> Workspace:
        """Return the workspace of a collection published at ``published_path`` (a path or URI).

        Who only reads what is there need not know ``partition_by``: files are told by their paths.
        """
        fs, published = resolve_filesystem(published_path, filesystem)
        published = published.rstrip("/")
        # One suffix only: stac_records and records_stac are two names.
        suffix = next((suffix for suffix in PUBLISHED_SUFFIXES if published.endswith(suffix)), "")
        stem = published.removesuffix(suffix)
        return cls(fs=fs, published=published, stages=f"{stem}{STAGES_SUFFIX}", partition_by=partition_by)

    # --- paths -------------------------------------------------------------------------------------------------------

    def published_file(self, key: str) -> str:
        """Return the path at which a partition's file is published."""
        return f"{self.published}/{hive_folder(key, self.partition_by)}/{PART_NAME}"

    def outdated_files(self, key: str) -> list[str]:
        """Return other paths at which a partition's file may lie, from when ``partition_by`` was another: of undated.

        Any other partition has one path, which its key tells.
        """
        paths = {f"{self.published}/{hive_folder(key, by)}/{PART_NAME}" for by in SIZES}
        return sorted(paths - {self.published_file(key)})

    def partition_of(self, path: str) -> str | None:
        """Return the partition of a published file by its path; None where no partition's file has such a path."""
        found = self._partition_of(path)
        return found[0] if found else None

    def size_of(self, path: str) -> PartitionBy | None:
        """Return whether a published file is one of a collection by year, by month or by day; None as above."""
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
        """Path of a stage's table for one partition."""
        suffix = STREAM_SUFFIX if stage in (RAW, NORMALIZED) else ".parquet"
        return f"{self.stages}/{stage}/{key}{suffix}"

    def state_file(self, key: str) -> str:
        """Path of a published partition's state."""
        return f"{self.stages}/{STATE_STAGE}/{key}.json"

    def remove(self, path: str) -> bool:
        """Delete a file and the folders it leaves empty; False where there was none."""
        if not self.has(path):
            return False
        self.fs.delete_file(path)
        folder = path.rpartition("/")[0]
        if self.is_local:
            while folder not in (self.published, self.stages) and folder.startswith((self.published, self.stages)):
                try:
                    # Never with what is in it: another partition may be putting its file there at this moment.
                    Path(folder).rmdir()
                except OSError:
                    break
                folder = folder.rpartition("/")[0]
        elif folder.startswith(f"{self.published}/") and not self.fs.get_file_info(pafs.FileSelector(folder)):
            # A marker that is left of the partition's own folder; those above it are others' too.
            self.fs.delete_dir(folder)
        return True

    # --- partitions --------------------------------------------------------------------------------------------------

    def states(self) -> dict[str, dict[str, Any]]:
        """State of every published partition by key, in key order."""
        folder = pafs.FileSelector(f"{self.stages}/{STATE_STAGE}", allow_not_found=True)
        with looking(folder.base_dir):
            infos = self.fs.get_file_info(folder)
        names = sorted(info.base_name for info in infos if info.base_name.endswith(".json"))
        paths = [f"{folder.base_dir}/{name}" for name in names]
        found = zip(names, each_file(self.fs, self.read_json, paths), strict=True)
        return {name.removesuffix(".json"): state for name, state in found if state is not None}

    def failures(self, states: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, int]:
        """Headers that the published partitions lack, by error class.

        Args:
            states: of the partitions, where they are known already.
        """
        counts: Counter[str] = Counter()
        for state in (self.states() if states is None else states).values():
            counts.update(state.get("failures", {}))
        return dict(sorted(counts.items()))

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Be the only one that builds a partition; waits for whoever does so now."""
        told = f"waiting for another run that builds {key} of {self.published}"
        with held(self.fs, f"{self.stages}/locks/{key}", lambda: _log.info(told)):
            yield

    def exists(self) -> bool:
        """Whether anything was published here."""
        selector = pafs.FileSelector(self.published, allow_not_found=True, recursive=True)
        with looking(self.published):
            return any(info.type == pafs.FileType.File for info in self.fs.get_file_info(selector))
