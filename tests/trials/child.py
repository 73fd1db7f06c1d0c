"""One piece of work in a process of its own, which may be killed or crash: builds, and looks at what is published.

It says ``ready`` once everything is imported, takes one line of JSON, and answers with one. With a ``journal`` it notes
which files were synced to the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Do what the line on standard input says."""
    if len(sys.argv) > 1:
        keep_journal(sys.argv[1])
    # Imported after the journal is kept, so that no module holds the functions that keep none.
    from tests.trials import work  # noqa: PLC0415

    say({"ready": True})
    if line := sys.stdin.readline():
        job = json.loads(line)
        say(attempt(getattr(work, job.pop("do")), **job))


def attempt(work: Callable[..., dict[str, Any]], **job: Any) -> dict[str, Any]:
    """Return the answer of some work, or its error and whether the package raised it on purpose."""
    from rasteret_assets.errors import RasteretAssetsError  # noqa: PLC0415

    try:
        return work(**job)
    except Exception as error:  # noqa: BLE001  (whatever it is, the trial judges it)
        return {"error": type(error).__name__, "ours": isinstance(error, RasteretAssetsError), "text": str(error)}


def digests(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return a digest of every value of a month's rows, for each month; nulls count as little as columns not there."""
    months: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        values = sorted((name, value) for name, value in row.items() if value is not None)
        months[f"{row['year']}-{row['month']}"].append(repr(values))
    return {month: hashlib.sha256("\n".join(sorted(inside)).encode()).hexdigest() for month, inside in months.items()}


def keep_journal(path: str) -> None:
    """Note every file that is synced, by inode and size: what a power cut would leave whole."""
    journal = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def noting(sync: Any) -> Any:
        def noted(file: Any) -> None:
            number = file if isinstance(file, int) else file.fileno()
            sync(number)
            status = os.fstat(number)
            os.write(journal, f"{status.st_ino} {status.st_size}\n".encode())

        return noted

    os.fsync, os.fdatasync = noting(os.fsync), noting(os.fdatasync)


def synced(journal: Path) -> set[tuple[int, int]]:
    """Return the inodes and sizes that a journal notes."""
    if not journal.exists():
        return set()
    # The last line may be cut where the process was killed; its file then counts as lost.
    lines = [line.split() for line in journal.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return {(int(inode), int(size)) for inode, size in lines}


def say(answer: dict[str, Any]) -> None:
    """Print one line of JSON."""
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
