"""The folder of a demo: where its files are, and the mark that makes a folder one.

demo.json                 marks the folder, holds port and version; written when the files are complete
files/<scene>/...         COGs and a thumbnail, served over HTTP
records.parquet           the record table
collections/demo.yaml     the collection, declared as for any other deployment
definitions.py            what ``dagster dev`` loads
dagster_home/             the Dagster instance: runs, partitions, materializations
workspace/                the published collection and the tables of its stages
demo.png                  the picture
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from rasteret_assets.demo.server import FileServer, serving
from rasteret_assets.errors import RasteretAssetsError

#: Raised whenever the files come out differently: an older folder is then written anew.
VERSION: Final = 2

_COLLECTION: Final = """\
# One collection: its record table, and where it is published. Paths start at this file's folder.
name: demo
path: ../records.parquet
workspace_dir: ../workspace
data_source: frisland
description: Scenes of Frisland, an island that exists on old maps only; April to June 2024.
enrich_cog: true
"""

_DEFINITIONS: Final = '''\
"""What `dagster dev -f definitions.py` loads: the collections declared beside this file."""

from pathlib import Path

from rasteret_assets.dagster import build_definitions

defs = build_definitions(collections_dir=Path(__file__).parent / "collections")
'''

_INSTANCE: Final = "telemetry:\n  enabled: false  # the demo needs nothing but this machine\n"


class FolderError(RasteretAssetsError):
    """A folder that the demo does not write into."""


class DemoFolder:
    """Paths of a demo, as the module says, and its mark.

    Args:
        root: the folder itself.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = root / "files"
        self.records = root / "records.parquet"
        self.declaration = root / "collections" / "demo.yaml"
        self.definitions = root / "definitions.py"
        self.dagster_home = root / "dagster_home"
        self.published = root / "workspace" / "demo_records"
        self.picture = root / "demo.png"
        self._mark_file = root / "demo.json"

    @property
    def port(self) -> int | None:
        """Port that the addresses in the record table name; None before the first run."""
        return self._mark().get("port")

    def is_complete(self) -> bool:
        """Return whether all files of this version exist."""
        return self._mark().get("version") == VERSION and self.files.is_dir() and self.records.is_file()

    def prepare(self, *, force: bool) -> None:
        """Create the folder and what Dagster needs in it, and delete scenes that are out of date, or all with force.

        Raises:
            FolderError: if the folder holds something else.
        """
        if self.root.is_dir() and any(self.root.iterdir()) and not self._mark_file.is_file():
            raise FolderError(f"{self.root} is neither empty nor a demo; name another folder")
        port, current = self.port, self.is_complete() and not force
        for folder in (self.files, self.declaration.parent, self.dagster_home):
            folder.mkdir(parents=True, exist_ok=True)
        if not current:
            # First, because no later run may take the scenes for complete until they are.
            self._mark_file.write_text(json.dumps({"port": port} if port else {}), encoding="utf-8")
            self.picture.unlink(missing_ok=True)
            shutil.rmtree(self.files)
            self.files.mkdir()
        self.declaration.write_text(_COLLECTION, encoding="utf-8")
        self.definitions.write_text(_DEFINITIONS, encoding="utf-8")
        (self.dagster_home / "dagster.yaml").write_text(_INSTANCE, encoding="utf-8")

    def complete(self, port: int) -> None:
        """Note that the files are complete, and the port that their addresses name."""
        self._mark_file.write_text(json.dumps({"version": VERSION, "port": port}), encoding="utf-8")

    def _mark(self) -> dict[str, int]:
        with suppress(OSError, ValueError):
            return dict(json.loads(self._mark_file.read_text(encoding="utf-8")))
        return {}


@contextmanager
def serving_demo(root: str | Path) -> Iterator[FileServer]:
    """Serve the files of a demo while the block runs, so that the addresses of its records work.

    Raises:
        FolderError: if ``root`` does not hold a demo.
        PortBusyError: if another program took its port.
    """
    folder = DemoFolder(Path(root))
    if folder.port is None or not folder.is_complete():
        raise FolderError(f"{root} does not hold a demo; make one with: rasteret-assets demo {root}")
    with serving(folder.files, folder.port) as server:
        yield server
