"""The demo as a user runs it: one process, then the same again, then what it printed."""

from __future__ import annotations

import os
import re
import runpy
import socket
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import rasterio
import rasterio.warp
import rasterio.windows
from click.testing import CliRunner
from matplotlib.image import imread

from rasteret_assets import Collection, load
from rasteret_assets.cli import main
from rasteret_assets.demo._landscape import BANDS
from rasteret_assets.demo.folder import serving_demo
from rasteret_assets.demo.poster import AREA
from rasteret_assets.demo.scenes import BROKEN
from rasteret_assets.schema import STAGES

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Demo:
    """A finished demo: where it ran, its folder, what it printed."""

    cwd: Path
    root: Path
    out: str
    err: str


def _run(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "DAGSTER_HOME"}
    environment |= {"NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    cwd = tmp_path_factory.mktemp("demo")
    # The command that users have, beside the Python they installed it for.
    command = str(Path(sys.executable).with_name("rasteret-assets"))
    done = _run(cwd, command, "demo", "my demo", "--port", str(_free_port()))
    assert done.returncode == 0, done.stderr
    return Demo(cwd=cwd, root=cwd / "my demo", out=done.stdout, err=done.stderr)


@pytest.fixture
def collection(demo: Demo) -> Collection:
    return load(demo.root / "workspace" / "demo_records")


def _snippet(out: str, title: str) -> str:
    """The code under a title: up to the next title, which is the next paragraph that follows a blank line twice."""
    body = out.split(f"{title}\n\n", 1)[1]
    return re.split(r"\n\n(?=In |What |Keep )", body)[0]


# --- what it leaves --------------------------------------------------------------------------------------------------


def test_the_picture_is_large_and_has_many_colours(demo: Demo) -> None:
    picture = imread(demo.root / "demo.png")
    height, width = picture.shape[:2]
    assert width >= 1200
    assert height >= 800
    colours = np.unique((picture[::2, ::2, :3] * 255).astype(np.uint8).reshape(-1, 3), axis=0)
    assert len(colours) > 5000


def test_every_scene_is_published(collection: Collection) -> None:
    months = Counter(f"{moment:%Y-%m}" for moment in collection.to_table(["datetime"])["datetime"].to_pylist())
    assert months == {"2024-04": 4, "2024-05": 4, "2024-06": 4}
    assert collection.bands == list(BANDS)  # not the thumbnail
    assert collection.crs == ["EPSG:32631", "EPSG:32632"]


def test_clouds_are_stated(collection: Collection) -> None:
    cover = collection.to_table(["eo:cloud_cover"])["eo:cloud_cover"].to_pylist()
    assert all(0 < value < 60 for value in cover)
    assert len(set(cover)) > 6


@pytest.mark.parametrize("scene", ["frisland_A2_20240608", "frisland_B2_20240511"])
def test_pixels_are_those_of_the_file(demo: Demo, collection: Collection, scene: str) -> None:
    with serving_demo(demo.root):
        found = collection.where(pc.field("id") == scene).get_numpy(AREA, ["red", "nir"])
    for band, pixels in zip(("red", "nir"), found[0], strict=True):
        with rasterio.open(demo.root / "files" / scene / f"{band}.tif") as dataset:
            bounds = rasterio.warp.transform_bounds("OGC:CRS84", dataset.crs, *AREA)
            window = rasterio.windows.from_bounds(*bounds, transform=dataset.transform)
            row, column = int(window.row_off), int(window.col_off)
            height, width = pixels.shape
            expected = dataset.read(1, window=((row, row + height), (column, column + width)))
        np.testing.assert_array_equal(pixels, expected)


def test_files_are_georeferenced_cogs(demo: Demo) -> None:
    for tile, epsg in (("A1", 32631), ("B1", 32632)):
        path = next((demo.root / "files").glob(f"frisland_{tile}_*04*/green.tif"))
        with rasterio.open(path) as dataset:
            assert dataset.crs.to_epsg() == epsg
            assert dataset.nodata == 0
            assert dataset.overviews(1) == [2, 4]
            assert dataset.read(1).min() > 0


def test_scenes_agree_where_zones_overlap(demo: Demo) -> None:
    """The landscape is one: the same place looks the same in both zones, but for clouds and resampling."""
    values = []
    for scene in ("frisland_A2_20240608", "frisland_B2_20240625"):
        with rasterio.open(demo.root / "files" / scene / "nir.tif") as dataset:
            lon, lat = np.linspace(5.95, 6.07, 40), np.linspace(55.28, 55.36, 40)
            x, y = rasterio.warp.transform("OGC:CRS84", dataset.crs, lon, lat)
            values.append(np.array([float(value[0]) for value in dataset.sample(zip(x, y, strict=True))]))
    assert np.median(np.abs(values[0] - values[1])) < 250
    assert np.corrcoef(*values)[0, 1] > 0.7


# --- the broken file -------------------------------------------------------------------------------------------------


def test_the_broken_file_is_in_the_ledger(demo: Demo) -> None:
    ledger = pq.read_table(demo.root / "workspace" / "demo_stages" / "band_metadata" / "2024-05.parquet")
    failed = ledger.filter(pc.field("status") != "ok").select(["id", "band", "error_class"]).to_pylist()
    assert failed == [{"id": BROKEN[0], "band": BROKEN[1], "error_class": "corrupt"}]
    assert f"{BROKEN[0]} {BROKEN[1]}: corrupt" in demo.out
    assert "Headers that could not be read: 1" in demo.out


def test_the_broken_record_is_published_without_that_header(collection: Collection) -> None:
    row = collection.where(pc.field("id") == BROKEN[0]).to_table(["nir_metadata", "red_metadata"]).to_pylist()[0]
    assert row["nir_metadata"] is None
    assert row["red_metadata"]["image_width"] == 768


# --- what it says ----------------------------------------------------------------------------------------------------


def test_results_and_progress_are_kept_apart(demo: Demo) -> None:
    assert "48 files were asked for their header: the server saw 48 requests" in demo.out
    assert "0 headers opened" in demo.out
    assert "materializing partitions" in demo.err
    assert "materializing" not in demo.out
    assert "\x1b" not in demo.out + demo.err
    assert "Traceback" not in demo.err
    assert "dagster" not in demo.err.lower()  # its log would bury the progress


def test_the_python_snippet_runs(demo: Demo) -> None:
    done = _run(demo.cwd, "-W", "error", "-c", _snippet(demo.out, "In Python"))
    assert done.returncode == 0, done.stderr
    assert "4 records" in done.stdout
    assert "(2, 2, 291, 283) uint16" in done.stdout
    assert done.stderr == ""


def test_the_duckdb_snippet_runs(demo: Demo) -> None:
    pytest.importorskip("duckdb")
    done = _run(demo.cwd, "-c", _snippet(demo.out, "In DuckDB (pip install duckdb)"))
    assert done.returncode == 0, done.stderr
    assert BROKEN[0] in done.stdout


def test_the_failures_snippet_runs(demo: Demo) -> None:
    command = _snippet(demo.out, "What helps where a header is missing")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "-c", command], cwd=demo.cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 of 48 headers could not be read")


def test_dagster_has_every_partition_materialized(demo: Demo) -> None:
    stages = [dg.AssetKey(["demo", stage]) for stage in STAGES]
    with dg.DagsterInstance.from_config(str(demo.root / "dagster_home")) as instance:
        for stage in stages:
            assert instance.get_materialized_partitions(stage) == {"2024-04", "2024-05", "2024-06"}
    loaded = runpy.run_path(str(demo.root / "definitions.py"))["defs"]
    assert set(stages) <= set(loaded.resolve_all_asset_keys())
    assert "DAGSTER_HOME=\"$PWD\"/'my demo/dagster_home'" in demo.out


def test_discover_registers_the_partitions(demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    result = CliRunner().invoke(main, ["discover", "--collections", str(demo.root / "collections")])
    assert result.output == "demo: 3 partitions (2024-04, 2024-05, 2024-06)\n"
    with dg.DagsterInstance.get() as instance:
        assert instance.get_dynamic_partitions("demo_months") == ["2024-04", "2024-05", "2024-06"]


# --- again -----------------------------------------------------------------------------------------------------------


def _demo_again(demo: Demo, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What the same demo says when it is run once more, in this process."""
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(demo.cwd)
    done = CliRunner().invoke(main, ["demo", "my demo", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_second_run_fetches_nothing_and_changes_nothing(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    def contents() -> dict[Path, bytes]:
        kept = [*demo.root.glob("workspace/demo_records/**/*.parquet"), *demo.root.glob("files/*/red.tif")]
        return {path: path.read_bytes() for path in [*kept, demo.root / "demo.png", demo.root / "records.parquet"]}

    before = contents()
    said = _demo_again(demo, monkeypatch)
    assert "Nothing had to be fetched" in said
    assert "the server saw 0 requests" in said
    assert "48 files" in said
    assert before == contents()


def test_another_port_moves_the_addresses(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    port = _free_port()
    assert "the server saw 48 requests" in _demo_again(demo, monkeypatch, "--port", str(port))
    records = pq.read_table(demo.root / "records.parquet")
    hrefs = {row["assets"]["red"]["href"].partition("/frisland")[0] for row in records.to_pylist()}
    assert hrefs == {f"http://127.0.0.1:{port}"}


def test_serving_twice_names_whose_server_it_is(demo: Demo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(demo.cwd)
    with serving_demo(demo.root) as server:
        done = CliRunner().invoke(main, ["demo", "my demo", "--serve"])
    assert done.exit_code == 0, done.output
    said = f"another run of the demo serves the files at {server.url} until that run ends"
    assert done.stderr.splitlines()[-1] == said


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_folder_with_something_else_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("draft")
    result = CliRunner().invoke(main, ["demo", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path} is neither empty nor a demo; name another folder\n"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = CliRunner().invoke(main, ["demo", str(tmp_path / "d"), "--port", str(port)])
    assert result.exit_code == 1
    reason = f"port {port} cannot be opened (Address already in use); choose another one with --port"
    assert result.stderr == f"Error: {reason}\n"
