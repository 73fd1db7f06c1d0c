"""Validators of the formats find nothing wrong in what is published."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pystac
import pytest

from tests.conformance.conftest import Published, footer
from tests.support.environments import environment

SCRIPTS = Path(sys.executable).parent

#: gpio wants DuckDB's spatial extension, which is a wheel for another patch version of DuckDB than it asks for.
GPIO = ("gpio-1.7.0", ["geoparquet-io==1.7.0"], ["duckdb==1.5.5", "duckdb-extension-spatial==1.5.5"])
GPIO_CHECK = """
import json, sys
from geoparquet_io.core.validate import validate_geoparquet
wrong = {}
for path in json.loads(sys.stdin.read()):
    checks = validate_geoparquet(path, sample_size=0).checks
    if bad := [(c.name, c.message) for c in checks if c.status.value not in ("passed", "skipped")]:
        wrong[path] = bad
print(json.dumps(wrong))
"""


def geoparquet_failures(folder: Path) -> list[str]:
    """Lines of geoparquet-validator about files that fail, but for statistics where there is not one footprint."""
    command = [str(SCRIPTS / "geoparquet-validator"), "check", "--class", "all", "--max-files", "100000", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    lines = [line for line in done.stdout.splitlines() if "core " in line]
    assert len(lines) == len(list(folder.rglob("*.parquet")))
    failures = [line for line in lines if "FAIL" in line]
    return [
        line
        for line in failures
        if not line.endswith("FAIL /conf/distribution/geospatial-statistics")
        or "bbox" in footer(Path(line.partition("  ")[0]), "geo")["columns"]["geometry"]
    ]


def test_geoparquet_validator(published: Published) -> None:
    assert not [line for folder in published.folders for line in geoparquet_failures(folder)]


def test_geoparquet_validator_on_native_geometry(native: Published) -> None:
    (folder,) = native.folders
    assert geoparquet_failures(folder) == []
    (path,) = native.files
    assert footer(path, "geo")["version"] == "2.0.0"
    assert "Geometry" in str(pq.ParquetFile(path).schema)
    assert pq.ParquetFile(path).metadata.row_group(0).column(2).geo_statistics.xmin > -180


def gpio_python() -> str:
    python = environment(*GPIO)
    found = next(Path(python).parents[1].rglob("spatial.duckdb_extension"))
    home = Path(python).parents[1] / "home" / ".duckdb" / "extensions" / found.parent.name / "linux_amd64"
    home.mkdir(parents=True, exist_ok=True)
    if not (home / found.name).exists():
        shutil.copy(found, home)
    return python


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the extension's folder is named after the platform")
def test_gpio_check_spec(published: Published, native: Published) -> None:
    python = gpio_python()
    # A second per file: of each collection the first and the last tell enough.
    ends = {end(folder.rglob("*.parquet")) for folder in published.folders for end in (min, max)} | set(native.files)
    done = subprocess.run(
        [python, "-c", GPIO_CHECK], input=json.dumps(sorted(map(str, ends))), capture_output=True, text=True,
        check=False, timeout=500, env={"HOME": str(Path(python).parents[1] / "home")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {}


def is_stac(path: Path) -> bool:
    return "stac_version" in pq.read_schema(path).names


def test_rustac_validate(published: Published, tmp_path: Path) -> None:
    checked = 0
    for path in filter(is_stac, published.files):
        table = pq.ParquetFile(path).read()
        position = table.schema.get_field_index("stac_extensions")
        # Schemas of extensions are fetched from the network; the core's are within rustac.
        none = pa.array([[]] * table.num_rows, pa.list_(pa.string()))
        bare = tmp_path / "bare.parquet"
        pq.write_table(table.set_column(position, "stac_extensions", none), bare)
        if not table.num_rows:
            continue
        command = [str(SCRIPTS / "rustac"), "-v", "validate", str(bare)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, f"{path}: {done.stdout} {done.stderr}"
        checked += 1
    assert checked


def test_stac_geoparquet_metadata(published: Published) -> None:
    for path in published.files:
        found = footer(path, "stac-geoparquet")
        assert bool(found) == is_stac(path), path
        if found:
            # The specification's schema admits no other version and no other keys.
            assert found["version"] == "1.0.0"
            assert set(found) == {"version", "collections"}
            for name, document in found["collections"].items():
                assert document["id"] == name
                pystac.Collection.from_dict(document).validate()
            required = {"stac_extensions", "id", "geometry", "bbox", "links", "assets", "type", "stac_version"}
            table = pq.ParquetFile(path).read()
            assert required <= set(table.schema.names)
            assert all(table[name].null_count == 0 for name in ("stac_extensions", "links", "type", "stac_version"))
            assert set(table["collection"].to_pylist()) == set(found["collections"])
            for links in table["links"].to_pylist():
                assert [link["rel"] for link in links].count("collection") == 1


def test_collection_documents(published: Published) -> None:
    assert len(published.documents) == len(published.folders)
    for path in published.documents:
        collection = pystac.Collection.from_file(str(path))
        collection.validate()
        asset = collection.assets["records"]
        assert (path.parent / asset.href).resolve().name == path.parent.name.removesuffix("_stages") + "_records"
        assert not list(path.parent.parent.glob("*_records/**/*.json"))


def test_validated_files_have_overviews(generated: Published) -> None:
    found = {
        row["id"]: (row["B02_metadata"] or {}).get("overviews")
        for path in (generated.workspace / "overviews_records").rglob("*.parquet")
        for row in pq.ParquetFile(path).read(["id", "B02_metadata"]).to_pylist()
    }
    assert {name: levels and len(levels) for name, levels in found.items()} == {"e": 3, "f": 2, "g": None, "h": None}


def test_missing_fields_of_items_are_filled_in(generated: Published) -> None:
    rows = {
        row["id"]: row
        for path in (generated.workspace / "stac_records").rglob("*.parquet")
        for row in pq.ParquetFile(path).read(["id", "links", "collection", "stac_version"]).to_pylist()
    }
    assert {name: row["collection"] for name, row in rows.items()} == dict.fromkeys("abd", "sentinel-2") | {"c": "stac"}
    assert {name: row["stac_version"] for name, row in rows.items()} == dict.fromkeys("abd", "1.0.0") | {"c": "1.1.0"}
    hrefs = {name: [link["href"] for link in row["links"]] for name, row in rows.items()}
    ours = "../../../stac_stages/collection.json"
    own = "https://example.com/item.json"
    assert hrefs == {"d": [own, "https://example.com/collection.json"], "a": [own, ours], "c": [ours], "b": [ours]}
    path = next((generated.workspace / "stac_records").rglob("*.parquet"))
    assert (path.parent / ours).resolve() == generated.workspace / "stac_stages" / "collection.json"
    assert path.parent.joinpath(ours).exists()
    collection = json.loads((generated.workspace / "stac_stages" / "collection.json").read_text())
    assert (collection["id"], collection["description"]) == ("stac", "Records of test.")
    assert collection["extent"]["temporal"]["interval"] == [["2024-04-01T10:00:00Z", "2024-06-03T10:00:00Z"]]
