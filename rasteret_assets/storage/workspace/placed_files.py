"""Write files of a workspace beside their place, and put them there in one step.

A file is written on a local disk first and then put in place: renamed over the old one, or uploaded as one object. (An
object store's own output stream would publish what was written so far when it fails.) On a disk the file is synced
before it gets its name, and its name after, so that a document written later never names a file that a power cut
emptied.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs
from xxhash import xxh3_128

from rasteret_assets.schema import HEADERS, NORMALIZED, RAW, REJECTED
from rasteret_assets.storage.io_errors import finding, opened, writing
from rasteret_assets.storage.workspace import disk
from rasteret_assets.storage.workspace.conditional import open_conditional

_WRITING: Final = ".writing"
# Stages whose files hold addresses that grant access: the provider's rows, and the tables from which headers are
# fetched.
_PRIVATE: Final = frozenset({RAW, NORMALIZED, REJECTED, HEADERS})
_PIECE_BYTES: Final = 8 * 1024 * 1024
#: Bytes that are asked for when an object is opened, so that a small object takes one request, where pyarrow makes
#: three (size, end, content).
_OPENED_BYTES: Final = 2**20
# Seconds after which a file that a killed process left is deleted, because no process can still be writing it.
_ABANDONED_AFTER_S: Final = 24 * 3600


class WrittenFile(NamedTuple):
    """Size of a written file in bytes, and a digest that changes with any of these bytes."""

    size: int
    digest: str


class FileWriter:
    """Counts the rows of a file that is written batch by batch, and has its size and digest at the end."""

    def __init__(self) -> None:
        self._written: WrittenFile | None = None
        self.rows = 0

    @property
    def written(self) -> WrittenFile:
        """Size and digest of the file; known after the ``with`` block that wrote it.

        Raises:
            RuntimeError: if the block has not ended.
        """
        if self._written is None:
            raise RuntimeError("the file is not in place before its writer is closed")
        return self._written


@dataclass(frozen=True, kw_only=True)
class PlacedFiles:
    """The files of a workspace, by path: whether they exist, their bytes, and how new ones take their place.

    Args:
        fs: filesystem of all files.
        stages: folder of this workspace alone, in which files are written before they are put in place.
    """

    fs: pafs.FileSystem
    stages: str

    def has(self, path: str) -> bool:
        """Return whether a file exists at ``path``.

        Raises:
            WorkspaceError: if the filesystem does not answer.
        """
        with finding(path):
            return bool(self.fs.get_file_info(path).type == pafs.FileType.File)

    def open_file(self, path: str) -> pa.NativeFile | None:
        """Open a file to read any part of it; None where the file does not exist. A small object is read at once.

        Raises:
            CollectionError: if the file cannot be opened.
        """

        def whole_or_lazy(path: str) -> pa.NativeFile:
            store = None if self.is_local else open_conditional(self.fs, self.stages)
            if store is None:
                return self.fs.open_input_file(path)
            try:
                found = store.head_of(path, _OPENED_BYTES)
            except OSError:
                return self.fs.open_input_file(
                    path
                )  # pyarrow may have credentials that obstore has not, or says better what is wrong
            if found is None:
                raise FileNotFoundError(path)
            content, size = found
            return pa.BufferReader(content) if size == len(content) else self.fs.open_input_file(path)

        return opened(whole_or_lazy, path)

    def before_put(self, path: str) -> None:
        """Do nothing. A subclass raises here if it has a reason not to put a file in place."""

    def put_file(self, beside: str, path: str, *, durable: bool = True) -> None:
        """Move or upload the finished local file ``beside`` to ``path``, in one step.

        Args:
            beside: path of the local file.
            path: its place in the workspace.
            durable: whether the file has to outlast a power cut.

        Raises:
            WorkspaceError: if the file cannot be put there.
        """
        self.before_put(path)
        with writing(path):
            if self.is_local:
                if self.is_private(path):
                    # Before the file is in the folder, because earlier versions made folders that others can read.
                    for folder in self.private_folders(path):
                        disk.make_folder(Path(folder))
                        disk.make_private(Path(folder))
                disk.replace(Path(beside), Path(path), durable=durable)
                return
            content = pa.memory_map(beside).read_buffer()
            with self.fs.open_output_stream(path) as sink:
                # In one call, because an interrupt between two would close the stream, and so publish half of the
                # object.
                sink.write(content)

    def is_private(self, path: str) -> bool:
        """Return whether only its owner may read a file, because the file holds addresses with what grants access."""
        inside = path.removeprefix(f"{self.stages}/")
        return inside != path and inside.split("/", 1)[0] in _PRIVATE

    def private_folders(self, path: str) -> list[str]:
        """Return the folders of a private file below :attr:`stages`, outermost first."""
        names = path.removeprefix(f"{self.stages}/").split("/")[:-1]
        return [f"{self.stages}/{'/'.join(names[: count + 1])}" for count in range(len(names))]

    @property
    def is_local(self) -> bool:
        """Whether the files lie on a disk of this machine, or on a share that is mounted like one."""
        return bool(self.fs.type_name == "local")

    @property
    def scratch(self) -> str:
        """Folder of this machine in which files are written before they are put in place."""
        return f"{self.stages}/{_WRITING}" if self.is_local else tempfile.gettempdir()

    @contextmanager
    def beside(self, path: str) -> Iterator[BinaryIO]:
        """Open a local file for the new content of ``path``; the local file is deleted when the block ends."""
        with writing(path):
            if self.is_local:
                self.refuse_links(f"{self.stages}/{_WRITING}/file")
                self.refuse_links(path)
            beside = disk.create_beside(Path(self.scratch), private=self.is_private(path))
        try:
            yield beside
        finally:
            # An error of tidying up would hide the error of the block, which names the file.
            with suppress(OSError):
                beside.close()
            with suppress(OSError):
                Path(beside.name).unlink()

    def refuse_links(self, path: str) -> None:
        """Refuse a path on a local disk that leads through a symbolic link below the folder of the stages.

        Raises:
            OSError: naming the link.
        """
        disk.refuse_links(path, [self.stages])

    def sweep(self, folder: str = _WRITING) -> None:
        """Delete files of ``folder`` to which nothing was written for a day and which no process has open.

        Args:
            folder: below :attr:`stages`; by default the one with files that killed processes left half written.

        Raises:
            WorkspaceError: if a file cannot be deleted.
        """
        path = f"{self.stages}/{folder}"
        with writing(path):
            if self.is_local:
                self.refuse_links(f"{path}/file")
                for stage in _PRIVATE:
                    # Earlier versions made folders that others can read.
                    if Path(f"{self.stages}/{stage}").is_dir() and not Path(f"{self.stages}/{stage}").is_symlink():
                        disk.make_private(Path(f"{self.stages}/{stage}"))
                disk.sweep(Path(path), _ABANDONED_AFTER_S)
                return
            oldest = time.time() - _ABANDONED_AFTER_S
            for info in self.fs.get_file_info(pafs.FileSelector(path, allow_not_found=True)):
                if info.type == pafs.FileType.File and info.mtime is not None and info.mtime.timestamp() < oldest:
                    with suppress(FileNotFoundError):  # another process may be sweeping too
                        self.fs.delete_file(info.path)


def synced(file: BinaryIO, *, durable: bool) -> None:
    """Flush a written file; sync it to the disk where it has to outlast a power cut."""
    file.flush()
    if durable:
        os.fsync(file.fileno())


def file_digest(fs: pafs.FileSystem, path: str) -> str:
    """Return the digest of the file at ``path``, as in :class:`WrittenFile`; the file is read in pieces."""
    with fs.open_input_stream(path) as stream:
        return stream_digest(stream)


def stream_digest(stream: pa.NativeFile) -> str:
    """Return the digest of the rest of ``stream``, as in :class:`WrittenFile`; it is read in pieces."""
    digest = xxh3_128()
    while piece := stream.read(_PIECE_BYTES):
        digest.update(piece)
    return digest.hexdigest()
