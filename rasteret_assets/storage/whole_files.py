"""Write local files that appear when they are whole, so that nobody opens half a file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rasteret_assets.errors import CollectionError, RasteretAssetsError

_REMEDY: Final = "choose a folder that may be written to, on a disk with room"


@contextmanager
def naming_target(path: str | Path, remedy: str = _REMEDY) -> Iterator[None]:
    """Raise failures of a block that writes ``path`` as errors that name ``path`` in place of a temporary file.

    Args:
        path: file or folder that is written.
        remedy: what to do about it.

    Raises:
        CollectionError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, RasteretAssetsError):
            raise
        # FileExistsError, because mkdir raises it for a file in the place of a folder.
        reason = "Not a directory" if isinstance(error, FileExistsError) else error.strerror or error
        raise CollectionError(f"{path} cannot be written ({reason}): {remedy}") from error


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a path to write a file to; the file takes the name ``path`` when the block ends, and goes if it fails.

    An earlier file of this name is replaced. Missing folders are made.

    Raises:
        CollectionError: if the file cannot be written.
    """
    target = Path(path)
    with naming_target(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, because a file is renamed at once only within one file system.
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
            beside = Path(folder) / target.name
            yield beside
            beside.replace(target)
