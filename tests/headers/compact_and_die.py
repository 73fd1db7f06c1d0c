"""Compact a header store again and again, each time dying one step on its way to the disk later.

``python compact_and_die.py template folder key`` copies the workspace ``template`` to ``folder/0``, ``folder/1`` and so
on, and in each a process ends before it renames, deletes or creates a file once more than the one before it. Prints how
many died.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from rasteret_assets.headers.compact import compact
from rasteret_assets.storage.workspace import Workspace

DIED = 9
STEPS = {"os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate"}


def die_at(step: int, folder: str) -> None:
    """Let this process end before a step on its way to the disk, as if it was killed."""
    left = step

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(arguments[1], str) and set("wax+") & set(arguments[1])
        if (event in STEPS or writes) and str(arguments[0]).startswith(folder):
            left -= 1
            if left < 0:
                os._exit(DIED)

    sys.addaudithook(hook)


def main() -> None:
    template, root, key = sys.argv[1:]
    step = 0
    while True:
        folder = f"{root}/{step}"
        shutil.copytree(template, folder)
        # Before anything of Arrow's was called, whose threads no child would have.
        child = os.fork()
        if not child:
            die_at(step, folder)
            workspace = Workspace.at(f"{folder}/s_records")
            with workspace.lock(key):
                compact(workspace, key)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code != DIED:
            break
        step += 1
    print(step if not code else f"failed with {code}")  # noqa: T201


if __name__ == "__main__":
    assert Path(sys.argv[1]).is_dir()
    main()
