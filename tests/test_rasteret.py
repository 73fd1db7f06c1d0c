"""rasteret 0.4.1 opens what is published here, and reads the pixels rasterio reads.

It needs Python 3.12, so it runs in an environment of its own: ``RASTERET_PYTHON`` where that is set, else one made from
the package index, once per machine. Skipped where neither is to be had.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio
from rasterio.windows import from_bounds

from rasteret_assets import CollectionSpec, build, build_from_table
from rasteret_assets.partitions import SIZES, PartitionBy
from tests.support.environments import environment, find_python
from tests.support.rasters import footprint, record_table, tiff_bytes

VERSION = "0.4.1"
CHECK = f"import sys, rasteret; sys.exit(rasteret.__version__ != '{VERSION}')"
READ = """
import json, sys
import numpy, rasteret
collection = rasteret.load(sys.argv[1])
pixels = collection.get_numpy(tuple(json.loads(sys.argv[2])), ["B02"])
numpy.savez(sys.argv[3], pixels=pixels, ids=collection.to_table(columns=["id"])["id"].to_pylist())
print(json.dumps({"bands": collection.bands, "name": collection.name, "source": collection.data_source}))
"""

LIST = """
import json, sys
import rasteret
collection = rasteret.load(sys.argv[1])
evening = collection.subset(date_range=("2024-05-17", "2024-05-18"))
ids = lambda found: sorted(found.to_table(columns=["id"])["id"].to_pylist())
print(json.dumps({"all": ids(collection), "evening": ids(evening)}))
"""


def succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False, timeout=600).returncode == 0


@pytest.fixture(scope="session")
def rasteret_python() -> str:
    if given := os.environ.get("RASTERET_PYTHON"):
        assert succeeds(given, "-c", CHECK), f"RASTERET_PYTHON={given} has no rasteret {VERSION}"
        return given
    base = find_python("3.12")
    if base is None:
        pytest.skip("no Python 3.12 here")
    return environment(f"rasteret-{VERSION}", [f"rasteret=={VERSION}"], python=base)


@pytest.mark.parametrize(
    "options",
    [{}, {"predictor": 2, "compress": "lzw"}, {"bands": 3, "interleave": "band", "compress": "zstd"}],
    ids=["deflate", "lzw with predictor", "planar zstd"],
)
def test_rasteret_reads_the_published_collection(rasteret_python: str, tmp_path: Path, options: dict) -> None:
    images = {name: tiff_bytes(seed=seed, **options) for seed, name in enumerate(["a", "b"])}
    for name, content in images.items():
        (tmp_path / f"{name}.tif").write_bytes(content)
    table = record_table(
        list(images), {"B02": [str(tmp_path / f"{name}.tif") for name in images]}, outline=footprint(images["a"])
    )
    build_from_table(table, name="shared", data_source="test", workspace_dir=tmp_path, enrich_cog=True)
    bounds = (9.0, 48.7480, 9.0050, 48.7520)
    command = [
        rasteret_python,
        "-c",
        READ,
        str(tmp_path / "shared_records"),
        str(list(bounds)),
        str(tmp_path / "out.npz"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"bands": ["B02"], "name": "shared", "source": "test"' in done.stdout
    with np.load(tmp_path / "out.npz") as out:
        pixels, ids = out["pixels"], out["ids"].tolist()
    for name, window in zip(ids, pixels, strict=True):
        with rasterio.MemoryFile(images[name]) as memory, memory.open() as dataset:
            left, bottom, right, top = rasterio.warp.transform_bounds("EPSG:4326", dataset.crs, *bounds)
            grid = from_bounds(left, bottom, right, top, dataset.transform)
            rows = slice(int(np.floor(grid.row_off)), int(np.floor(grid.row_off)) + window.shape[0])
            columns = slice(max(0, int(np.floor(grid.col_off))), max(0, int(np.floor(grid.col_off))) + window.shape[1])
            assert window.size > 500
            assert np.array_equal(window, dataset.read(1)[rows, columns])


@pytest.mark.parametrize("by", SIZES)
def test_rasteret_opens_partitions_of_every_size(rasteret_python: str, tmp_path: Path, by: PartitionBy) -> None:
    days = [(2024, 5, 17, 23), (2024, 5, 18, 1), (2023, 1, 2)]
    times = [datetime(*day, tzinfo=UTC) for day in days]
    table = record_table(["a", "b", "c"], {"B02": ["x.tif"] * 3}, datetimes=times)
    pq.write_table(table, tmp_path / "t.parquet")
    build(CollectionSpec.of(path=tmp_path / "t.parquet", name="s2", workspace_dir=tmp_path, partition_by=by))
    command = [rasteret_python, "-c", LIST, str(tmp_path / "s2_records")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"all": ["a", "b", "c"], "evening": ["a"]}


@pytest.mark.parametrize("by", [None, *SIZES])
def test_rasteret_opens_an_exported_subset(rasteret_python: str, tmp_path: Path, by: PartitionBy | None) -> None:
    days = [(2024, 5, 17, 23), (2024, 5, 18, 1), (2023, 1, 2)]
    times = [datetime(*day, tzinfo=UTC) for day in days]
    (tmp_path / "x.tif").write_bytes(tiff_bytes())
    table = record_table(["a", "b", "c"], {"B02": [str(tmp_path / "x.tif")] * 3}, datetimes=times)
    whole = build_from_table(table, name="s2", workspace_dir=tmp_path, enrich_cog=True)
    target = tmp_path / ("some.parquet" if by is None else "some")
    whole.subset(date_range="2024").export(target, by)
    command = [rasteret_python, "-c", LIST, str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"all": ["a", "b"], "evening": ["a"]}
