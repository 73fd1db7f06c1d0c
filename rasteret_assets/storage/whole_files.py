"""Write local files that appear when they are whole, so that nobody opens half a file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a path to write a file to; the file takes the name ``path`` when the block ends, and goes if it fails.

    An earlier file of this name is replaced. Missing folders are made.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, because a file is renamed at once only within one file system.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
        beside = Path(folder) / target.name
        yield beside
        beside.replace(target)
