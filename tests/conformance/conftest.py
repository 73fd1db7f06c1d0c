"""Published collections for the tools to look at: of generated tables always, of the corpus' where that is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rasteret_assets import CollectionSpec, build_from_table
from rasteret_assets.pipeline.build import build_partitions
from rasteret_assets.pipeline.stage import Build
from rasteret_assets.source.open import open_source
from rasteret_assets.source.stored import load_profile
from rasteret_assets.storage.create import create_backend
from rasteret_assets.storage.workspace import Workspace
from tests.conformance.tables import generated_tables, many_boxes
from tests.corpus.conftest import CORPUS, address
from tests.corpus.test_tables import TABLES, arguments
from tests.support.server import RangeServer

__all__ = ["address"]

PROVIDER = "https://sentinel2l2a01.blob.core.windows.net/"
#: Left out of the corpus' run: it says nothing that the others do not, and a hundred times over.
LARGE = "big_20000.parquet"


@dataclass(frozen=True)
class Published:
    """Collections that were published into one workspace."""

    workspace: Path

    @property
    def folders(self) -> list[Path]:
        """Of the records, one per collection."""
        return sorted(self.workspace.glob("*_records"))

    @property
    def files(self) -> list[Path]:
        """Of all collections."""
        return [path for folder in self.folders for path in sorted(folder.rglob("*.parquet"))]

    @property
    def documents(self) -> list[Path]:
        """The collections' documents, one each."""
        return sorted(self.workspace.glob("*_stages/collection.json"))


def ids(folder: Path) -> list[str]:
    """Sorted ids of a collection, file by file."""
    return sorted(
        name for path in folder.rglob("*.parquet") for name in pq.ParquetFile(path).read(["id"])["id"].to_pylist()
    )


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Published:
    workspace = tmp_path_factory.mktemp("generated")
    server = RangeServer()
    with server.running():
        for name, (table, options) in generated_tables(server).items():
            build_from_table(table, name=name, data_source="test", workspace_dir=workspace, **options)
    return Published(workspace)


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """One collection with Parquet's own geometry type."""
    workspace = tmp_path_factory.mktemp("native")
    spec = CollectionSpec.of(path="", name="native", workspace_dir=workspace, geometry_encoding="native")
    source, target = open_source(many_boxes(4500), spec), Workspace.at(str(spec.published_path))
    build = Build(workspace=target, source=source, spec=spec, backend=create_backend())
    build_partitions(build, sorted(load_profile(target, source, spec).partitions))
    return Published(workspace)


@pytest.fixture(scope="module")
def of_corpus(address: str, tmp_path_factory: pytest.TempPathFactory) -> Published:
    if not CORPUS.exists():
        pytest.skip("the shared corpus is not here")
    workspace = tmp_path_factory.mktemp("corpus")
    for name, expected in TABLES.items():
        if expected["status"] == "ok" and name != LARGE:
            given = arguments(name, address)
            # Real tables are built without headers: seventeen thousand of them are another test's matter.
            build_from_table(CORPUS / "tables" / name, name=name.partition(".")[0], workspace_dir=workspace, **given)
    return Published(workspace)


@pytest.fixture(params=["generated", pytest.param("of_corpus", marks=pytest.mark.slow)])
def published(request: pytest.FixtureRequest) -> Published:
    found: Published = request.getfixturevalue(request.param)
    return found


def footer(path: Path, key: str) -> dict:
    """A JSON document of a file's footer; empty where there is none."""
    return json.loads((pq.read_schema(path).metadata or {}).get(key.encode(), b"{}"))
