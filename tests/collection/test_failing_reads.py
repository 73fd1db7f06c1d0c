"""Reads from hosts that throttle, fail and send wrong answers: what is repeated, what is reported, what is masked."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from rasteret_assets.collection import Collection, as_collection
from rasteret_assets.errors import (
    AccessDeniedError,
    HostUnreachableError,
    ObjectNotFoundError,
    PixelReadError,
    TileError,
)
from rasteret_assets.storage import hosts
from tests.support.server import RangeServer

from .support import UTM32, header_of, noise, record, records_table, write_raster
from .test_get_numpy import box

WHOLE = box(0, 0, 230, 200)


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "_FIRST_BACKOFF_S", 0.001)


def served(server: RangeServer, names: list[str], *, query: str = "") -> tuple[Collection, dict[str, np.ndarray]]:
    """Return a collection of a record for each name, whose raster a server has."""
    rows, pixels = [], {}
    for seed, name in enumerate(names):
        pixels[name] = noise(seed=seed)
        path = write_raster(server.root / f"{name}.tif", pixels[name], compress="deflate", nodata=0)
        row = record(name, {"B": (path, 0)})
        row["assets"]["B"]["href"] = f"{server.url}/{name}.tif{query}"
        rows.append(row)
    return as_collection(records_table(rows)), pixels


@pytest.mark.parametrize("fault", ["503", "429", "reset", "short"])
def test_passing_failures_are_tried_again(server, fault):
    collection, pixels = served(server, ["a", "b"])
    server.fault = lambda path, before: fault if before < 2 else None
    got = collection.get_numpy(WHOLE, "B", geometry_crs=UTM32)
    np.testing.assert_array_equal(got, np.concatenate([pixels["a"], pixels["b"]]))
    assert len(server.requests) == 6


def test_one_request_for_each_run_and_none_for_headers(server):
    collection, _ = served(server, ["a", "b", "c"])
    collection.get_numpy(WHOLE, "B", geometry_crs=UTM32)
    assert sorted(server.paths) == ["/a.tif", "/b.tif", "/c.tif"]
    first = min(header_of(server.root / "a.tif")["tile_offsets"])
    assert all(int(ranged.removeprefix("bytes=").split("-")[0]) >= first for _, ranged in server.requests)


@pytest.mark.parametrize(("fault", "error"), [("404", ObjectNotFoundError), ("403", AccessDeniedError)])
def test_lasting_failures_are_requested_once(server, fault, error):
    collection, _ = served(server, ["a"], query="?X-Amz-Signature=secret")
    server.fault = lambda path, before: fault
    with pytest.raises(error) as caught:
        collection.get_numpy(WHOLE, "B", geometry_crs=UTM32)
    assert "band 'B' of record 'a'" in caught.value.__notes__[0]
    assert "secret" not in str(caught.value)
    assert len(server.requests) == 1


def test_several_failures_are_one_error_that_lists_them(server):
    collection, _ = served(server, ["a", "b", "c"])
    server.fault = lambda path, before: "404" if path != "/b.tif" else None
    with pytest.raises(PixelReadError) as caught:
        collection.get_numpy(WHOLE, "B", geometry_crs=UTM32)
    assert len(caught.value.failures) == 2
    assert {type(failure) for failure in caught.value.failures} == {ObjectNotFoundError}
    for name in ("a", "c"):
        assert f"{server.url}/{name}.tif: HTTP 404 Not Found; while reading band 'B' of record '{name}'" in str(
            caught.value
        )
    assert "on_error='mask'" in str(caught.value)


def damage(path: Path, *tiles: int) -> None:
    header = header_of(path)
    with path.open("r+b") as file:
        for tile in tiles:
            file.seek(header["tile_offsets"][tile])
            file.write(b"\xff" * 20)


def test_damaged_tiles_are_each_named(server):
    collection, _ = served(server, ["a"])
    damage(server.root / "a.tif", 0, 6)
    with pytest.raises(PixelReadError) as caught:
        collection.get_numpy(WHOLE, "B", geometry_crs=UTM32)
    assert all(isinstance(failure, TileError) for failure in caught.value.failures)
    assert "tile (row 0, column 0)" in str(caught.value)
    assert "tile (row 1, column 2)" in str(caught.value)


def test_masked_failures_leave_the_rest_as_it_is(server, caplog):
    collection, pixels = served(server, ["a", "b"])
    damage(server.root / "a.tif", 6)
    server.fault = lambda path, before: "404" if path == "/b.tif" else None
    with caplog.at_level(logging.WARNING, logger="rasteret_assets"):
        got = collection.get_numpy(WHOLE, "B", geometry_crs=UTM32, masked=True, on_error="mask")
    lost = np.zeros((2, 200, 230), bool)
    lost[0, 64:128, 128:192] = lost[1] = True
    np.testing.assert_array_equal(np.ma.getmaskarray(got), lost | (np.stack([pixels["a"][0], pixels["b"][0]]) == 0))
    np.testing.assert_array_equal(got[0][~lost[0]].data, pixels["a"][0][~lost[0]])
    filled = collection.get_numpy(WHOLE, "B", geometry_crs=UTM32, on_error="mask")
    assert not filled[lost].any()
    assert "tile (row 1, column 2)" in caplog.text
    assert "HTTP 404" in caplog.text


def test_masked_failures_where_pixels_are_warped_and_sampled(server):
    collection, _ = served(server, ["a"])
    damage(server.root / "a.tif", 6)
    dataset = collection.get_xarray(WHOLE, "B", geometry_crs=UTM32, resolution=20, masked=True, on_error="mask")
    assert np.isnan(dataset["B"].values[0, 32:64, 64:96]).all()
    assert np.isfinite(dataset["B"].values[0, :30, :60]).mean() > 0.99
    points = [shape.centroid for shape in (box(140, 70, 2, 2), box(10, 10, 2, 2))]
    table = collection.sample_points(points, "B", geometry_crs=UTM32, masked=True, on_error="mask")
    assert table["value"].is_valid().to_pylist() == [False, True]


def test_a_dead_host_is_given_up_and_delays_no_other(server):
    collection, pixels = served(server, [f"r{number:02}" for number in range(40)])
    table = collection.to_table()
    rows = table.to_pylist()
    for row in rows[1:]:
        row["assets"]["B"]["href"] = row["assets"]["B"]["href"].replace(server.url, "http://127.0.0.1:9")
    mixed = as_collection(records_table(rows))
    with pytest.raises(PixelReadError) as caught:
        mixed.get_numpy(WHOLE, "B", geometry_crs=UTM32, max_concurrent=4)
    assert len(caught.value.failures) == 39
    assert all(isinstance(failure, HostUnreachableError) for failure in caught.value.failures)
    assert "and 19 more" in str(caught.value)
    got = mixed.get_numpy(WHOLE, "B", geometry_crs=UTM32, on_error="mask")
    np.testing.assert_array_equal(got[0], pixels["r00"][0])


def test_any_exception_of_a_backend_is_reported(tmp_path):
    class Broken:
        async def get_range(self, url: str, start: int, length: int) -> bytes:
            raise KeyError(url)

        async def get_ranges(self, url: str, ranges: list[tuple[int, int]]) -> list[bytes]:
            raise KeyError(url)

    opened = as_collection(records_table([record("r", {"B": (write_raster(tmp_path / "a.tif", noise()), 0)})]))
    with pytest.raises(Exception, match="the backend failed: KeyError"):
        opened.get_numpy(WHOLE, "B", geometry_crs=UTM32, backend=Broken())


def test_asynchronous_reads_run_side_by_side_and_can_be_cancelled(server):
    collection, pixels = served(server, ["a"])

    async def both() -> list[np.ndarray]:
        return await asyncio.gather(*(collection.get_numpy_async(WHOLE, "B", geometry_crs=UTM32) for _ in range(2)))

    for got in asyncio.run(both()):
        np.testing.assert_array_equal(got, pixels["a"])
    asked = threading.Event()

    def unavailable(path: str, before: int) -> str:
        asked.set()
        return "503"

    server.fault = unavailable

    async def cancelled() -> None:
        task = asyncio.create_task(collection.get_numpy_async(WHOLE, "B", geometry_crs=UTM32))
        await asyncio.to_thread(asked.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
