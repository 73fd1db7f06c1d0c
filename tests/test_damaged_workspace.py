"""Whatever a power cut or a flipped bit did to the files of a workspace, the next build makes the collection whole."""

from __future__ import annotations

import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rasteret_assets import CollectionSpec, build, load, plan
from tests.support.rasters import record_table, tiff_bytes


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[object]]:
    """A folder with a record table, its rasters and what was built of them, and the rows that were published."""
    folder = tmp_path_factory.mktemp("sound")
    for seed in range(3):
        (folder / f"{seed}.tif").write_bytes(tiff_bytes(seed=seed))
    ids, days = [f"r{row}" for row in range(3)], [datetime(2024, 5, day, tzinfo=UTC) for day in range(1, 4)]
    hrefs = [str(folder / f"{seed}.tif") for seed in range(3)]
    pq.write_table(record_table(ids, {"B02": hrefs}, datetimes=days), folder / "t.parquet")
    build(spec_of(folder, folder / "w"))
    return folder, rows(folder / "w")


def spec_of(folder: Path, work: Path) -> CollectionSpec:
    return CollectionSpec.of(path=folder / "t.parquet", name="s2", workspace_dir=work, enrich_cog=True)


def rows(work: Path) -> list[object]:
    found = load(f"{work}/s2_records", verify="full").to_table(["id", "B02_metadata"])
    return sorted(found.to_pylist(), key=lambda row: str(row["id"]))


def test_a_power_cut_that_emptied_any_file(
    sound: tuple[Path, list[object]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, expected = sound
    files = sorted(path.relative_to(folder / "w") for path in (folder / "w").rglob("*") if path.is_file())
    for number, file in enumerate([*files, None]):
        work = tmp_path / str(number)
        shutil.copytree(folder / "w", work)
        for emptied in files if file is None else [file]:
            (work / emptied).write_bytes(b"")
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            plan(spec_of(folder, work))
            # The ledger is looked into where something is to be built.
            build(spec_of(folder, work), force=file is not None and "band_metadata" in file.parts)
        assert rows(work) == expected, file
        if file is not None and file.suffix == ".json" and "locks" not in file.parts:
            assert file.name in caplog.text


def test_a_flipped_bit_of_a_header_is_never_published(
    sound: tuple[Path, list[object]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, expected = sound
    (headers,) = (folder / "w" / "s2_stages" / "headers").rglob("*.arrows")
    content, generator = headers.read_bytes(), np.random.default_rng(3)
    for number in range(8):
        work = tmp_path / str(number)
        shutil.copytree(folder / "w", work)
        damaged = bytearray(content)
        damaged[generator.integers(len(content))] ^= 1 << int(generator.integers(8))
        (work / headers.relative_to(folder / "w")).write_bytes(damaged)
        shutil.rmtree(work / "s2_records")
        with caplog.at_level(logging.WARNING):
            build(spec_of(folder, work))
        assert rows(work) == expected
    assert "its headers are read again" in caplog.text
