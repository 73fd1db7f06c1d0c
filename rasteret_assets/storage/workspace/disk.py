"""Files and folders on a local disk: created beside, synced, put in place in one step; writes never follow a link.

Another process may delete an empty folder at any moment, so each step that needs a folder makes it again if it is gone.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

T = TypeVar("T")

_TRIES: Final = 20
_BUFFER_BYTES: Final = 1024 * 1024


#: Modes of files and folders that only their owner may read.
PRIVATE_FILE: Final = 0o600
PRIVATE_FOLDER: Final = 0o700


def make_private(folder: Path) -> None:
    """Allow only the owner of a folder to enter it; a folder of another user stays as it is."""
    with suppress(OSError):
        if stat.S_IMODE(folder.stat().st_mode) != PRIVATE_FOLDER:
            folder.chmod(PRIVATE_FOLDER)


def make_folder(folder: Path) -> None:
    """Make a folder and the folders above it, where they do not exist.

    Raises:
        NotADirectoryError: if a file, or a link that leads nowhere, is in the place of the folder or of one above it.
        FileNotFoundError: if the folder cannot be made for another reason.
    """
    for _ in range(_TRIES):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, FileNotFoundError) as error:
            # Either a file or a broken link is in a folder's place, or another process deleted a folder meanwhile.
            for place in (folder, *folder.parents):
                if os.path.lexists(place) and not place.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place)) from error
        else:
            return
    reason = "the filesystem refuses the folder, or other processes delete it again and again"
    raise FileNotFoundError(errno.ENOENT, reason, str(folder))


def in_folder(folder: Path, step: Callable[[], T]) -> T:
    """Make a folder and return the result of ``step``; do both again if the folder was deleted in between."""
    for attempt in range(_TRIES):
        make_folder(folder)
        try:
            return step()
        except FileNotFoundError:
            if attempt + 1 == _TRIES:
                raise
    raise AssertionError("unreachable")


def create_beside(folder: Path, *, private: bool = False) -> BinaryIO:
    """Create a file with a new name in a folder and open it for writing; :func:`sweep` spares it until it is closed.

    Args:
        folder: in which the file is made.
        private: whether only its owner may read the file.
    """
    mode = PRIVATE_FILE if private else 0o666
    path = folder / uuid.uuid4().hex
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    file = os.fdopen(in_folder(folder, lambda: os.open(path, flags, mode)), "wb", _BUFFER_BYTES)
    with suppress(OSError):  # on a share without locks, sweep() goes by the time of the last write alone
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # Because a file that was opened by a descriptor has no name.
    file.raw.name = str(path)  # type: ignore[attr-defined]
    return file


def replace(source: Path, target: Path, *, durable: bool) -> None:
    """Move the file ``source`` to ``target``, which it replaces in one step.

    Args:
        source: a file whose content is synced, if it has to outlast a power cut.
        target: path of the file that is replaced, or of a new one.
        durable: whether the new name is synced too, so that it outlasts a power cut.
    """
    is_new = not target.parent.exists()
    in_folder(target.parent, lambda: _rename(source, target))
    if durable:
        _sync_folder(target.parent)
        if is_new:  # the names of the folder and of the folder above it have to last too
            for folder in list(target.parents)[1:3]:
                _sync_folder(folder)


def _rename(source: Path, target: Path) -> None:
    if not source.exists():
        # Not FileNotFoundError, because in_folder() takes that for a missing folder of the target.
        raise OSError(errno.ESTALE, "another process deleted the file that was being written", str(source))
    source.replace(target)


def _sync_folder(folder: Path) -> None:
    # Some filesystems cannot sync folders, and another process may delete an empty folder at this moment.
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def refuse_links(path: str, roots: Sequence[str]) -> None:
    """Refuse a path with a symbolic link among its folders below one of ``roots``, because a link may lead anywhere.

    Raises:
        OSError: naming the link.
    """
    for root in roots:
        if path.startswith(f"{root}/"):
            folder = root
            for name in path.removeprefix(f"{root}/").split("/")[:-1]:
                folder = f"{folder}/{name}"
                if Path(folder).is_symlink():
                    raise OSError(errno.ELOOP, "a symbolic link, which a workspace may not hold: delete it", folder)


def sweep(folder: Path, older_than_s: float) -> None:
    """Delete the files of a folder to which nothing was written for a time, unless a process has them open.

    Args:
        folder: whose files are deleted; links in it are not followed.
        older_than_s: seconds since the last write.
    """
    oldest = time.time() - older_than_s
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):  # another process may be sweeping too
                if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_mtime < oldest:
                    _delete_abandoned(entry.path)


def _delete_abandoned(path: str) -> None:
    file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    else:
        os.unlink(path)  # noqa: PTH108  (the entry's own path, no object is needed)
    finally:
        os.close(file)
