"""Other readers open what is published, and find every record."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import duckdb
import duckdb_extension_spatial
import geopandas
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from rasteret_assets import load
from rasteret_assets.schema import HIVE_NULL
from tests.conformance.conftest import Published, ids
from tests.support.environments import environment
from tests.test_rasteret import rasteret_python

__all__ = ["rasteret_python"]

LONBOARD = ("lonboard-0.17.0", ["lonboard==0.17.0", "geopandas", "pyarrow"])
SHOW = """
import json, sys, geopandas, lonboard
counts = {}
for name, paths in json.loads(sys.stdin.read()).items():
    frame = geopandas.read_parquet(paths)
    counts[name] = len(frame)
    lonboard.viz(frame[frame.geometry.notna()][["id", "geometry"]])
print(json.dumps(counts))
"""
READ = """
import json, sys, rasteret
print(json.dumps({f: sorted(rasteret.load(f).to_table()["id"].to_pylist()) for f in json.loads(sys.stdin.read())}))
"""


def has_undated(folder: Path) -> bool:
    return any(HIVE_NULL in str(path) for path in folder.rglob("*.parquet"))


def test_we_do(published: Published) -> None:
    for folder in published.folders:
        assert sorted(load(folder).to_table()["id"].to_pylist()) == ids(folder), folder


def test_pyarrow(published: Published) -> None:
    for folder in published.folders:
        # Arrow cannot tell the type of a hive key that is null everywhere unless it is told.
        keys = ds.partitioning(flavor="hive") if not has_undated(folder) else None
        assert sorted(ds.dataset(folder, partitioning=keys).to_table()["id"].to_pylist()) == ids(folder), folder


def test_geopandas(published: Published) -> None:
    for folder in published.folders:
        # As above; file by file nothing has to be guessed.
        parts = sorted(folder.rglob("*.parquet")) if has_undated(folder) else [folder]
        frames = [geopandas.read_parquet(part) for part in parts]
        assert sorted(name for frame in frames for name in frame["id"]) == ids(folder), folder
        assert all(frame.crs.to_authority() == ("OGC", "CRS84") for frame in frames)


def test_polars(published: Published) -> None:
    for folder in published.folders:
        frame = pl.scan_parquet(folder, hive_partitioning=True).collect()
        assert sorted(frame["id"].to_list()) == ids(folder), folder


@pytest.fixture(scope="module")
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    extension = next(Path(duckdb_extension_spatial.__file__).parent.rglob("spatial.duckdb_extension"))
    with duckdb.connect() as connection:
        connection.execute(f"LOAD '{extension}'")
        yield connection


def test_duckdb_spatial(published: Published, database: duckdb.DuckDBPyConnection) -> None:
    for folder in published.folders:
        query = (
            f"SELECT id, ST_AsText(geometry), * FROM read_parquet('{folder}/**/*.parquet', hive_partitioning = true)"
        )
        rows = database.execute(query).fetchall()
        assert sorted(row[0] for row in rows) == ids(folder), folder


@pytest.mark.slow
def test_lonboard(published: Published) -> None:
    python = environment(*LONBOARD)
    shown = {
        folder.name: [str(folder)] for folder in published.folders if not has_undated(folder) and has_shape(folder)
    }
    asked = {name: paths[0] for name, paths in shown.items()}
    done = subprocess.run(
        [python, "-W", "ignore", "-c", SHOW], input=json.dumps(asked), capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts = {folder.name: len(ids(folder)) for folder in published.folders if folder.name in shown}
    assert json.loads(done.stdout.splitlines()[-1]) == counts


def has_shape(folder: Path) -> bool:
    """Whether there is something to put on a map, of one kind."""
    kinds = {
        kind
        for path in folder.rglob("*.parquet")
        for kind in json.loads(pq.read_schema(path).metadata[b"geo"])["columns"]["geometry"]["geometry_types"]
    }
    return len(kinds) == 1


def test_rasteret(published: Published, rasteret_python: str) -> None:
    folders = [str(folder) for folder in published.folders if not has_undated(folder)]
    done = subprocess.run(
        [rasteret_python, "-c", READ], input=json.dumps(folders), capture_output=True, text=True, check=False,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {folder: ids(Path(folder)) for folder in folders}


def test_native_geometry_is_geometry_elsewhere(native: Published, database: duckdb.DuckDBPyConnection) -> None:
    (folder,) = native.folders
    assert geopandas.read_parquet(folder).geometry.notna().all()
    found = database.execute(f"SELECT count(*), any_value(typeof(geometry)) FROM '{folder}/**/*.parquet'").fetchone()
    assert found is not None
    assert (found[0], found[1].partition("(")[0]) == (4500, "GEOMETRY")
    assert len(load(folder).subset(bbox=(0, 0, 10, 10)).to_table()) > 0
