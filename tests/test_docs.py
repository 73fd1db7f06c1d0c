"""The examples of the documentation and of the README, run over a small published collection."""

from __future__ import annotations

import doctest
import re
import runpy
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio

import rasteret_assets
from rasteret_assets import CollectionSpec, build_from_table, load
from rasteret_assets.checks import check_partition, registry
from rasteret_assets.dagster import StorageBackendResource
from rasteret_assets.storage.workspace import Workspace
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A folder with the collection that ``examples/scenes.py`` writes for whoever tries the pages."""
    runpy.run_path(str(ROOT / "examples" / "scenes.py"))["write_scenes"](tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", ["reading.md", "schema.md", "layout.md", "other-tools.md", "tiles.md"])
def test_examples_run(scenes: Path, page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(scenes)
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == text.count("```python") > 0
    namespace: dict[str, object] = {}
    for block in blocks:
        line = text[: text.index(block)].count("\n")
        exec(compile("\n" * line + block, str(DOCS / page), "exec"), namespace)
    assert capsys.readouterr().out


def test_the_missing_file_of_the_readme_is_in_the_ledger(tmp_path: Path, server: RangeServer) -> None:
    server.objects["/B08.tif"] = tiff_bytes()
    hrefs = {band: [f"{server.url}/{band}.tif?sig=secret"] for band in ("B04", "B08")}
    table = record_table(["S2A_T32"], hrefs)
    build_from_table(table, name="sentinel2", workspace_dir=tmp_path, enrich_cog=True)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (session,) = re.findall(r"```python\n(>>> .*?)```", text, flags=re.DOTALL)
    for written, here in (("/data/index/", f"{tmp_path}/"), ("https://mirror.example/", f"{server.url}/")):
        assert written in session
        session = session.replace(written, here)
    runner = doctest.DocTestRunner()
    runner.run(doctest.DocTestParser().get_doctest(session, {}, "README.md", "README.md", 0))
    assert runner.summarize(verbose=False) == (0, 3)


def test_the_check_and_the_format_of_the_docs_work(
    scenes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(registry, "_CHECKS", dict(registry._CHECKS))
    monkeypatch.chdir(scenes)
    text = (DOCS / "extend.md").read_text(encoding="utf-8")
    namespace: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(block, "extend.md", "exec"), namespace)
    printed = capsys.readouterr().out
    shown = re.findall(r"print\(found.*\)  # (.*)", text)
    assert [said in printed for said in shown] == [True, True]
    assert "[PosixPath('000000.tif'), PosixPath('000001.tif')]" in printed
    with rasterio.open(scenes / "000001.tif") as file:
        assert (file.descriptions, file.tags()["record"]) == (("B04", "B08"), "scene1")
        expected = load(scenes / "scenes_records").get_numpy((9.05, 48.70, 9.06, 48.71), ["B04", "B08"])
        assert np.array_equal(file.read(), expected[1])
        assert file.dataset_mask().all()
    assert "record_id: string\nband: string\ncrs: string\nx: double\ny: double\nvalue: uint16" in printed
    spec = CollectionSpec.of(path="unused", name="scenes", workspace_dir=scenes)
    messages = {finding.check: finding.message for finding in check_partition(Workspace.of(spec), spec, "2024-05")}
    assert messages["cloud_cover_is_a_percentage"] == "the cloud cover of 2 records is a percentage, or null"
    assert messages["few_tiles"] == "the largest file of 2 records has 64 tiles"


def test_the_examples_of_a_build_run(
    tmp_path: Path, server: RangeServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    server.objects |= {f"/{number}_{band}.tif": tiff_bytes() for number in range(2) for band in ("B04", "B08")}
    (tmp_path / "scenes").mkdir()
    # The first table is of a bucket of which there is a mirror.
    for table, prefix in (("scenes.parquet", "s3://sentinel-cogs"), ("scenes/part.parquet", server.url)):
        hrefs = {band: [f"{prefix}/{number}_{band}.tif" for number in range(2)] for band in ("B04", "B08")}
        pq.write_table(record_table(["r0", "r1"], hrefs), tmp_path / table)
    text = (DOCS / "builds.md").read_text(encoding="utf-8")
    places = {"s3://bucket": str(tmp_path), "/data/index": f"{tmp_path}/index", "https://mirror.example": server.url}
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        for written, here in places.items():
            block = block.replace(written, here)  # noqa: PLW2901  (one place after the other)
        exec(compile(block, "builds.md", "exec"), names)
    assert len(names["collection"]) == 2
    assert "partitions to build" in capsys.readouterr().out


def test_the_examples_with_credentials_run(scenes: Path) -> None:
    (record,) = rasteret_assets.load(scenes / "scenes_records").head(1, ["id", "datetime", "geometry"]).to_pylist()
    for name, band in (("hls", "B04"), ("landsat", "red")):
        table = pa.Table.from_pylist(
            [{**record, "assets": {band: {"href": str(scenes / "scenes_files" / "0_B04.tif")}}}]
        )
        build_from_table(table, name=name, workspace_dir=scenes / "index", enrich_cog=True)
    names: dict[str, object] = {
        "ra": rasteret_assets, "area": (9.05, 48.70, 9.06, 48.71), "ask_for_a_token": lambda: ("secret", 60),
        "create_backend": rasteret_assets.create_backend, "dg": dg, "StorageBackendResource": StorageBackendResource,
    }  # fmt: skip
    blocks = []
    for page in ("credentials.md", "troubleshooting.md"):
        blocks += re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block.replace("/data/index", str(scenes / "index")), "credentials.md", "exec"), names)
    opened = names["open_archive"]
    assert opened("https://data.example")["headers"] == {"Authorization": "Bearer secret"}
    assert opened("s3://other") is None
