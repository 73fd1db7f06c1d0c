"""Turn failures of storage into errors that name the file; try again after passing ones, and tell them from damage.

Arrow raises OSError for a broken connection as well as for bytes that contradict themselves, so the message decides. An
unknown message counts as a failure to read, because taking a sound file for a damaged one would throw away hours of
work.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, TypeVar

import pyarrow as pa

from rasteret_assets.errors import CollectionError, DamagedFileError, RasteretAssetsError, WorkspaceError

T = TypeVar("T")

_BARRED: Final = "one of the folders in its path is a file: choose another workspace_dir"

#: Seconds between the tries of a read that failed.
RETRIED_AFTER_S: tuple[float, ...] = (0.1, 0.4, 1.0)

# Words of Arrow's messages about damaged bytes, for the cases in which Arrow does not raise ArrowInvalid.
_DAMAGE: Final = re.compile(
    r"thrift|CRC|page integrity|flatbuffer|corrupt|magic bytes|malformed|truncated|decompress|unexpected end of stream|"
    r"invalid (?:or|parquet|data|number|page|encod|column|repet|defin|file|ipc|metadata|rle|bit)|end of file|"
    r"not a parquet|unknown encoding|(?:snappy|lz4|zstd|gzip|brotli)",
    re.IGNORECASE,
)  # fmt: skip
# Words of messages about the network, which is never damage, whatever else the message says.
_NETWORK: Final = re.compile(
    r"AWS Error|curl|connection|network|timed? ?out|timeout|HTTP|google|azure|unavailable|slow ?down|socket|TLS|SSL",
    re.IGNORECASE,
)  # fmt: skip
# Failures that another try does not change.
_LASTING: Final = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
_DENIED: Final = re.compile(r"ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|NO_SUCH_KEY")


def patiently(read: Callable[[], T], *, again_if_damaged: bool = False) -> T:
    """Return the result of ``read``; call it again, up to three times within 1.5 s, after a failure that may pass.

    Args:
        read: raises OSError for a failure, and ValueError (as ArrowInvalid is) for damage.
        again_if_damaged: whether damage is tried again too. An object that is replaced between two requests of one
            read has the start of one version and the end of another.
    """
    for pause in RETRIED_AFTER_S:
        try:
            return read()
        except (OSError, ValueError) as error:
            if not (again_if_damaged if is_damage(error) else may_pass(error)):
                raise
        time.sleep(pause)
    return read()


def is_damage(error: Exception) -> bool:
    """Return whether an error means that the bytes of a file are wrong."""
    if isinstance(error, ValueError | pa.ArrowException) and not isinstance(error, OSError):
        return True
    text = str(error)
    return (
        isinstance(error, OSError)
        and error.errno is None
        and not isinstance(error, WorkspaceError)
        and _NETWORK.search(text) is None
        and _DAMAGE.search(text) is not None
    )


def may_pass(error: Exception) -> bool:
    """Return whether another try may succeed: after a broken connection, at a busy store, on a disk that hung."""
    return (
        isinstance(error, OSError)
        and not isinstance(error, _LASTING)
        and error.errno not in {errno.ENOTDIR, errno.ELOOP, errno.EMFILE}
        and _DENIED.search(str(error)) is None
    )


def unreadable(path: str, error: Exception) -> CollectionError:
    """Return the error to raise for a file that cannot be read, with the remedy for damage or for a failed store."""
    if is_damage(error):
        return damaged(path, error)
    return CollectionError(f"{path} cannot be read ({error}): {_reach(error)}")


def damaged(path: str, error: Exception | str) -> DamagedFileError:
    """Return the error to raise for a file whose bytes are not those that were written."""
    return DamagedFileError(f"{path}: damaged ({error}); build it again with force=True", path=path)


def finding(path: str) -> AbstractContextManager[None]:
    """Raise failures of a block that asks whether ``path`` exists as errors that name the file.

    Raises:
        WorkspaceError: in place of an OSError.
    """
    return _as_workspace_error(f"cannot find out whether {path} exists", _reach)


def writing(path: str) -> AbstractContextManager[None]:
    """Raise failures of a block that writes or deletes the file at ``path`` as errors that name the file.

    Raises:
        WorkspaceError: in place of an OSError.
    """
    return _as_workspace_error(f"{path} cannot be written", _room)


@contextmanager
def _as_workspace_error(failed: str, remedy: Callable[[OSError], str]) -> Iterator[None]:
    try:
        yield
    except WorkspaceError:
        raise
    except OSError as error:
        raise WorkspaceError(f"{failed} ({error}): {remedy(error)}") from error


def opened(open_file: Callable[[str], pa.NativeFile], path: str) -> pa.NativeFile | None:
    """Return the file that ``open_file`` opens at ``path``; None where the file does not exist.

    Raises:
        CollectionError: if the file cannot be opened. It is then not taken for damaged.
    """
    try:
        return patiently(lambda: open_file(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CollectionError(f"{path} cannot be opened ({error}): {_reach(error)}") from error


def _reach(error: Exception) -> str:
    """Return what to do about a file that cannot be reached."""
    return _BARRED if _is_barred(error) else "see that its storage can be reached, and that you may read there"


def _room(error: OSError) -> str:
    """Return what to do about a file that cannot be written."""
    return _BARRED if _is_barred(error) else "the workspace has to be a folder, with room, that may be written to"


def _is_barred(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENOTDIR


def also_do(step: Callable[[], object], error: BaseException) -> None:
    """Call ``step`` before ``error`` is raised again; a failure of ``step`` becomes a note of ``error``."""
    try:
        step()
    except (RasteretAssetsError, OSError) as another:
        error.add_note(f"then also: {another}")
