"""Damage is told apart from a storage that fails, and a failure that may pass is waited out."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from rasteret_assets.errors import CollectionError, DamagedFileError
from rasteret_assets.storage import io_errors as reading
from rasteret_assets.storage.io_errors import is_damage, patiently, unreadable
from rasteret_assets.storage.workspace.files import STAGE_OPTIONS, Files

TABLE = pa.table({"x": np.arange(50_000), "name": [f"row {row}" for row in range(50_000)]})

BROKEN = [
    "AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 56, Failure when receiving data from the peer",
    "AWS Error SLOW_DOWN during GetObject operation: Please reduce your request rate.",
    "AWS Error INTERNAL_FAILURE during GetObject operation (HTTP status 500): We encountered an internal error",
    "google::cloud::Status(UNAVAILABLE: Permanent error in Read: recv failure)",
    "something that nobody has seen yet",
]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "RETRIED_AFTER_S", (0.0, 0.0))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(fs=pafs.LocalFileSystem(), stages=str(tmp_path / "s2_stages"))


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_connection_is_not_damage(text: str) -> None:
    assert not is_damage(OSError(text))
    message = str(unreadable("bucket/file", OSError(text)))
    assert message.startswith("bucket/file cannot be read (")
    assert "damaged" not in message
    assert "delete" not in message


def test_every_flipped_bit_of_a_page_is_found_and_called_damage(files: Files) -> None:
    path = f"{files.stages}/ledger.parquet"
    files.write_table(path, TABLE, row_group_size=10_000, **STAGE_OPTIONS)
    sound = Path(path).read_bytes()
    end = pq.read_metadata(path).row_group(4).column(1)
    pages = end.data_page_offset + end.total_compressed_size
    generator = np.random.default_rng(7)
    for place in generator.integers(4, pages, 60):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << int(generator.integers(8))
        Path(path).write_bytes(damaged)
        for read in (files.read_table, lambda path: pa.Table.from_batches(files.read_batches(path))):
            # A bit of a page's header that nobody reads does no harm.
            assert outcome(read, path) in ("sound", f"{path}: damaged")


def outcome(read: Callable[[str], pa.Table], path: str) -> str:
    try:
        return "sound" if read(path) == TABLE else "other rows"
    except DamagedFileError as error:
        text = str(error)
    return text if "delete" in text else text.partition(" (")[0]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1 torso", b"\0" * 5000])
def test_a_file_that_a_power_cut_emptied_is_damage(files: Files, content: bytes) -> None:
    path = Path(files.stages) / "table.parquet"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"table\.parquet: damaged .*; build it again with force=True"):
        files.read_table(str(path))
    assert files.read_table(str(path), cache=True) is None
    path = path.with_suffix(".json")
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"table\.json: damaged"):
        files.read_json(str(path))
    assert files.read_json(str(path), cache=True) is None


def test_a_cache_of_another_form_is_read_as_missing(files: Files) -> None:
    path = f"{files.stages}/source.json"
    for document in ([], 5, "text"):
        files.write_json(path, document)
        assert files.read_json(path, cache=True) is None
        assert files.read_json(path) == document


class FaultyFile(io.BytesIO):
    """A file in memory whose first reads fail."""

    def __init__(self, content: bytes, failures: list[Exception]) -> None:
        super().__init__(content)
        self.failures = failures

    def read(self, size: int | None = -1) -> bytes:
        if self.failures:
            raise self.failures.pop()
        return super().read(size)


class Faulty(LocalFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A filesystem whose first reads fail, as those of a store may."""

    protocol = ("faulty",)
    failures: list[Exception]

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **options: Any) -> Any:
        if "r" in mode:
            return FaultyFile(Path(path).read_bytes(), self.failures)
        return super()._open(path, mode, block_size, **options)


@pytest.fixture
def faulty(tmp_path: Path) -> tuple[Files, list[Exception]]:
    fs = Faulty(skip_instance_cache=True, auto_mkdir=True)
    fs.failures = []
    arrow = pafs.PyFileSystem(pafs.FSSpecHandler(fs))
    return Files(fs=arrow, stages=str(tmp_path / "s2_stages")), fs.failures


READS: list[Callable[[Files, str], Any]] = [
    lambda files, path: files.read_table(path).num_rows,
    lambda files, path: sum(batch.num_rows for batch in files.read_batches(path)),
    lambda files, path: files.count_rows(path),
]


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("times", [1, 2])
def test_a_read_that_fails_for_a_moment_is_repeated(
    faulty: tuple[Files, list[Exception]], read: Callable[[Files, str], Any], times: int
) -> None:
    files, failures = faulty
    path = f"{files.stages}/table.parquet"
    files.write_table(path, TABLE, row_group_size=10_000)
    failures.extend(OSError(BROKEN[0]) for _ in range(times))
    assert read(files, path) == TABLE.num_rows
    assert not failures


@pytest.mark.parametrize("read", READS)
def test_a_store_that_keeps_failing_is_named_as_such(
    faulty: tuple[Files, list[Exception]], read: Callable[[Files, str], Any]
) -> None:
    files, failures = faulty
    path = f"{files.stages}/table.parquet"
    files.write_table(path, TABLE)
    failures.extend(OSError(BROKEN[0]) for _ in range(50))
    with pytest.raises(CollectionError, match="see that its storage can be reached") as caught:
        read(files, path)
    assert not isinstance(caught.value, DamagedFileError)


def test_rows_come_once_where_a_read_fails_between_batches(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches before the failure are not repeated."""
    path = f"{files.stages}/table.parquet"
    files.write_table(path, TABLE, row_group_size=TABLE.num_rows)
    plain = pq.ParquetFile.iter_batches
    broken: list[int] = []

    def breaking(self: pq.ParquetFile, *args: Any, **options: Any) -> Any:
        for number, batch in enumerate(plain(self, *args, **options)):
            if number == 1 and not broken:
                broken.append(number)
                raise OSError(BROKEN[0])
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", breaking)
    assert pa.Table.from_batches(files.read_batches(path)) == TABLE
    assert broken


def test_a_lasting_failure_is_not_tried_again() -> None:
    for error in (FileNotFoundError(), PermissionError(), OSError("AWS Error ACCESS_DENIED during HeadObject")):
        asked = []

        def ask(error: OSError = error, asked: list[int] = asked) -> None:
            asked.append(1)
            raise error

        with pytest.raises(OSError):
            patiently(ask)
        assert len(asked) == 1


def test_a_missing_marker_is_not_a_failure() -> None:
    """Stores without folders raise when a folder is deleted that never existed."""
    from rasteret_assets.storage.workspace import Workspace  # noqa: PLC0415

    workspace = Workspace.at("memory-test/s2_records", fsspec.filesystem("memory", skip_instance_cache=True))
    path = workspace.published_file("2024-01")
    for _ in range(2):
        workspace.fs.create_dir(path.rpartition("/")[0])
        workspace.write_table(path, TABLE.slice(0, 3))
        assert workspace.remove(path)
    assert not workspace.remove(path)
