"""The number of requests that a header costs, wherever in its file it lies, counted by a real server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

import boto3
import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from rasteret_assets import StorageBackend, create_backend
from rasteret_assets.headers.fetch import fetch_headers
from rasteret_assets.headers.outcomes import HeaderOutcome, HeaderProgress, HeaderTarget, Latencies
from rasteret_assets.storage import hosts
from rasteret_assets.tiff import FamilyMember
from tests.support.rasters import tiff_bytes
from tests.support.server import RangeServer
from tests.tiff.support import as_values, serve

#: Pixels that no test downloads: a header behind them cannot be had by reading the whole file.
MIDDLE = 2 * 1024 * 1024


def rewritten(tmp_path: Path, number: int, **options: object) -> bytes:
    """A tiled GeoTIFF whose directory lies behind its pixels, because its tags were changed after they were written.

    Its size and those of its tags differ from file to file.
    """
    path = tmp_path / f"made-{number}.tif"
    rng = random.Random(number)
    width = 1500 + 32 * rng.randrange(40)
    path.write_bytes(tiff_bytes(width=width, height=1400, seed=number, compress="none", **options))
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(NOTE="x" * rng.randrange(600), NUMBER=number)
    data = path.read_bytes()
    path.unlink()
    order = "little" if data[:2] == b"II" else "big"
    offset = int.from_bytes(data[8:16] if data[2:4] in (b"+\0", b"\0+") else data[4:8], order)
    assert len(data) > MIDDLE
    assert offset > len(data) - 128 * 1024
    return data


def headers_of(
    hrefs: Sequence[str], backend: StorageBackend | None = None, *, at_once: int = 4, known: object = None
) -> tuple[list[HeaderOutcome], HeaderProgress]:
    targets = [HeaderTarget(href=href, family="B02") for href in hrefs]
    got: dict[int, HeaderOutcome] = {}
    totals = asyncio.run(
        fetch_headers(
            targets, backend or create_backend(), lambda where, what: got.update(zip(where, what, strict=True)),
            max_concurrent=at_once,
        )
    )  # fmt: skip
    return [got[index] for index in range(len(hrefs))], totals


def assert_headers(outcomes: Sequence[HeaderOutcome], files: Sequence[bytes]) -> None:
    for outcome, file in zip(outcomes, files, strict=True):
        assert outcome.header is not None, outcome.error
        header = outcome.header.header() if isinstance(outcome.header, FamilyMember) else outcome.header
        assert as_values(header) == as_values(serve(file, first=len(file)))
        assert outcome.size == len(file)


def place(server: RangeServer, files: Sequence[bytes]) -> list[str]:
    server.objects |= {f"/{number}.tif": file for number, file in enumerate(files)}
    return [f"{server.url}/{number}.tif" for number in range(len(files))]


def test_hrefs_that_are_not_addresses_become_failures(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff_bytes())
    odd = [
        "http://[::1/a.tif", "https://[bucket]/a.tif", "http://h:x/a.tif", "http://127.0.0.1:99999/a.tif", "http://",
        "http:///a.tif", "s3://a bucket/a.tif", "s3://[bucket]/a.tif", "s3://é/a.tif", "gs://{bucket}/a.tif", "s3://b/",
        "az://a b/c", "ftp://h/a.tif", "file:///a\0b", "/a\0b", "", "?", "//", "C:\\a.tif",
    ]  # fmt: skip
    outcomes, totals = headers_of([*odd, str(tmp_path / "a.tif")])
    assert [outcome.header is None for outcome in outcomes] == [True] * len(odd) + [False]
    assert totals.requests <= 5 * len(odd)
    assert all(outcome.error for outcome in outcomes[:-1])


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("behind")
    return [rewritten(folder, number) for number in range(12)]


@pytest.mark.parametrize(
    "options", [{}, {"bigtiff": "yes"}, {"endianness": "big"}, {"blockxsize": 16, "blockysize": 16}]
)
def test_headers_behind_the_pixels_take_one_request_once_it_is_learned(
    server: RangeServer, tmp_path: Path, options: dict[str, object]
) -> None:
    files = [rewritten(tmp_path, number, **options) for number in range(8)]
    hrefs = place(server, files) * 20
    outcomes, totals = headers_of(hrefs)
    assert_headers(outcomes[:8], files)
    assert all(outcome.header is not None for outcome in outcomes)
    # Those that were in flight before anything was learned took two or three.
    assert totals.requests == len(server.requests) <= len(hrefs) + 10
    assert totals.bytes < len(hrefs) * 110_000


def test_a_server_of_single_ranges_is_asked_for_both_ends_at_once(server: RangeServer, behind: list[bytes]) -> None:
    server.several_ranges = False
    outcomes, totals = headers_of(place(server, behind), at_once=1)
    assert_headers(outcomes, behind)
    assert totals.requests == len(server.requests)
    asked = [sum(path == f"/{number}.tif" for path in server.paths) for number in range(len(behind))]
    # Learned from the first, tried in vain on the second, and then two at once.
    assert asked[2:] == [2] * (len(behind) - 2)
    assert max(asked) <= 3
    # A range of a compressed file is no range of the file.
    assert all(headers["Accept-Encoding"] == "identity" for headers in server.headers)


def test_files_of_both_kinds_in_one_family(server: RangeServer, behind: list[bytes]) -> None:
    usual = [tiff_bytes(seed=number) for number in range(40)]
    files = [*usual[:20], behind[0], *usual[20:], *behind[1:], *usual]
    outcomes, totals = headers_of(place(server, files), at_once=1)
    assert_headers(outcomes, files)
    # One odd file among many costs only itself; a change of habit costs a few.
    assert totals.requests <= len(files) + 20


def test_a_directory_in_front_with_its_tables_behind_the_pixels(server: RangeServer, tmp_path: Path) -> None:
    files = []
    for number in range(6):
        data = bytearray(tiff_bytes(seed=number, width=2000 + 64 * number, height=1300, compress="none"))
        files.append(_move_tables_to_the_end(data))
    outcomes, totals = headers_of(place(server, files) * 5, at_once=1)
    assert_headers(outcomes[:6], files)
    assert totals.requests <= 5 * 6 + 3


def _move_tables_to_the_end(data: bytearray) -> bytes:
    start = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[start : start + 2], "little")
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind = np.frombuffer(data, "<u2", 2, entry).tolist()
        number, position = np.frombuffer(data, "<u4", 2, entry + 4).tolist()
        if tag in (324, 325):
            values = bytes(data[position : position + number * (4 if kind == 4 else 2)])
            data[position : position + len(values)] = bytes(len(values))
            data[entry + 8 : entry + 12] = len(data).to_bytes(4, "little")
            data += values
    return bytes(data)


@pytest.mark.parametrize("fault", ["503", "reset", "short"])
def test_failures_of_the_moment_while_tails_are_read(server: RangeServer, behind: list[bytes], fault: str) -> None:
    server.fault = lambda path, before: fault if before == 0 else None
    outcomes, totals = headers_of(place(server, behind), at_once=2)
    assert_headers(outcomes, behind)
    # A reset of a connection that was idle is answered by the same request on another one, which counts once.
    assert len(behind) < totals.requests <= len(server.requests) <= 3 * len(behind)


def test_a_missing_file_in_a_family_of_tails(server: RangeServer, behind: list[bytes]) -> None:
    hrefs = place(server, behind)
    outcomes, totals = headers_of([*hrefs, f"{server.url}/none.tif", *hrefs], at_once=1)
    error = outcomes[len(hrefs)].error
    assert error is not None
    assert error.error_class == "not_found"
    assert totals.requests == len(server.requests)


def test_local_files_are_opened_once_for_both_ends(tmp_path: Path, behind: list[bytes]) -> None:
    hrefs = []
    for number, file in enumerate(behind):
        (tmp_path / f"{number}.tif").write_bytes(file)
        hrefs.append(str(tmp_path / f"{number}.tif"))
    outcomes, totals = headers_of(hrefs, at_once=1)
    assert_headers(outcomes, behind)
    assert totals.requests <= len(behind) + 2


def test_an_object_store_is_asked_for_both_ends_at_once(behind: list[bytes]) -> None:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        name, port = server.get_host_and_port()
        settings = {"access_key_id": "k", "secret_access_key": "s", "endpoint": f"http://{name}:{port}"}
        client = boto3.client(
            "s3", endpoint_url=settings["endpoint"], region_name="us-east-1", aws_access_key_id="k",
            aws_secret_access_key="s",
        )  # fmt: skip
        client.create_bucket(Bucket="tails")
        for number, file in enumerate(behind):
            client.put_object(Bucket="tails", Key=f"{number}.tif", Body=file)
        client.close()
        hrefs = [f"s3://tails/{number}.tif" for number in range(len(behind))]
        outcomes, totals = headers_of(hrefs, create_backend(region="us-east-1", default_s3_config=settings), at_once=1)
    finally:
        server.stop()
    assert_headers(outcomes, behind)
    assert totals.requests <= 2 * len(behind) + 1


def test_a_users_backend_gets_the_requests_it_knows(behind: list[bytes]) -> None:
    class Mine:
        asked = 0

        async def get_range(self, url: str, start: int, length: int) -> bytes:
            self.asked += 1
            return behind[int(url)][start : start + length]

        async def get_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
            return [await self.get_range(url, *one) for one in ranges]

    mine = Mine()
    outcomes, totals = headers_of([str(number) for number in range(len(behind))], mine, at_once=1)
    assert all(outcome.header is not None for outcome in outcomes)
    assert totals.requests == mine.asked <= 3 * len(behind)


def test_a_retry_after_of_a_day_is_cut_to_the_longest_pause(
    server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr(hosts, "_LONGEST_BACKOFF_S", 0.1)
    server.retry_after = "86400"
    server.fault = lambda path, before: "429" if path == "/0.tif" and before == 0 else None
    files = [tiff_bytes(seed=number) for number in range(5)]
    outcomes, _ = headers_of(place(server, files), at_once=1)
    assert_headers(outcomes, files)


@given(st.lists(st.floats(2e-4, 100), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99]))
def test_percentiles_of_latencies_are_right_to_a_tenth(seconds: list[float], share: float) -> None:
    latencies, others = Latencies(), Latencies()
    for number, value in enumerate(seconds):
        (latencies if number % 2 else others).add(value)
    latencies.update(others)
    found = latencies.percentile(share)
    assert found is not None
    assert found == pytest.approx(np.quantile(seconds, share, method="inverted_cdf"), rel=0.11)
    assert Latencies().percentile(share) is None
