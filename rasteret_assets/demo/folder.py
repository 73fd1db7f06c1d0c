"""The demo's folder: what lies where, and what makes a folder one.

demo.json                 marks the folder, remembers port and version; written when the files are complete
files/<scene>/...         COGs, thumbnails and metadata, served over HTTP
records.parquet           the record table
collections/demo.yaml     the collection, declared as for any other deployment
definitions.py            what ``dagster dev`` loads
dagster_home/             the Dagster instance: runs, partitions, materializations
workspace/                the published collection and its stages
demo.png                  the picture
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rasteret_assets.demo.server import FileServer, serving
from rasteret_assets.errors import RasteretAssetsError

#: Raised whenever the files come out differently: an older folder is then written anew.
VERSION: Final = 1

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

_INSTANCE: Final = """\
# The demo needs nothing but this machine.
telemetry:
  enabled: false
"""


class FolderError(RasteretAssetsError):
    """A folder the demo will not write into."""


@dataclass(frozen=True)
class DemoFolder:
    """Paths of a demo, and the mark that makes it one.

    Args:
        root: the folder itself.
    """

    root: Path

    @property
    def files(self) -> Path:
        """Folder of the scenes."""
        return self.root / "files"

    @property
    def records(self) -> Path:
        """The record table."""
        return self.root / "records.parquet"

    @property
    def declaration(self) -> Path:
        """The YAML file that declares the collection."""
        return self.root / "collections" / "demo.yaml"

    @property
    def definitions(self) -> Path:
        """The file that ``dagster dev`` loads."""
        return self.root / "definitions.py"

    @property
    def dagster_home(self) -> Path:
        """Folder of the Dagster instance."""
        return self.root / "dagster_home"

    @property
    def published(self) -> Path:
        """The published collection."""
        return self.root / "workspace" / "demo_records"

    @property
    def ledger(self) -> Path:
        """Folder of the band metadata, which hold the failures."""
        return self.root / "workspace" / "demo_stages" / "band_metadata"

    @property
    def picture(self) -> Path:
        """The picture."""
        return self.root / "demo.png"

    @property
    def port(self) -> int | None:
        """Port that the record table's addresses name; None before the first run."""
        port = self._mark().get("port")
        return port if isinstance(port, int) else None

    def is_complete(self) -> bool:
        """Whether the files of this version are all there."""
        return self._mark().get("version") == VERSION and self.files.is_dir() and self.records.is_file()

    def prepare(self, *, force: bool) -> None:
        """Create the folder and what Dagster needs in it, without files yet. What is out of date goes.

        Raises:
            FolderError: if the folder holds something else.
        """
        if self.root.exists() and not self.root.is_dir():
            raise FolderError(f"{self.root} is a file; name a folder")
        if self.root.is_dir() and any(self.root.iterdir()) and not self._mark_file.is_file():
            raise FolderError(f"{self.root} is neither empty nor a demo; name another folder")
        if self.root.exists() and (force or not self.is_complete()):
            self.picture.unlink(missing_ok=True)
            shutil.rmtree(self.files, ignore_errors=True)
            # Until the files are complete again, no later run may take them for it.
            self._write_mark({"port": self.port} if self.port else {})
        for folder in (self.files, self.declaration.parent, self.dagster_home):
            folder.mkdir(parents=True, exist_ok=True)
        if not self._mark_file.exists():
            self._write_mark({})
        texts = {self.declaration: _COLLECTION, self.definitions: _DEFINITIONS}
        texts[self.dagster_home / "dagster.yaml"] = _INSTANCE
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")

    def complete(self, port: int) -> None:
        """Note that the files are complete and which port their addresses name."""
        self._write_mark({"version": VERSION, "port": port})

    @property
    def _mark_file(self) -> Path:
        return self.root / "demo.json"

    def _write_mark(self, mark: dict[str, int]) -> None:
        self._mark_file.write_text(json.dumps(mark) + "\n", encoding="utf-8")

    def _mark(self) -> dict[str, object]:
        try:
            mark = json.loads(self._mark_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return mark if isinstance(mark, dict) else {}


@contextmanager
def serving_demo(root: str | Path) -> Iterator[FileServer]:
    """Serve a demo's files while the block runs, so that its records' addresses work.

    Raises:
        FolderError: if there is no demo in ``root``.
        PortBusyError: if another program took its port.
    """
    folder = DemoFolder(Path(root))
    port = folder.port
    if port is None or not folder.is_complete():
        raise FolderError(f"there is no demo in {root}; make one with: rasteret-assets demo {root}")
    with serving(folder.files, port) as server:
        yield server
