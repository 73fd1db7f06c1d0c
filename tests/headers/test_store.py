"""The header store: rows are found by file and sample, in files that are never changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rasteret_assets.errors import CollectionError, DamagedFileError
from rasteret_assets.headers import retried
from rasteret_assets.headers import store as stores
from rasteret_assets.headers.index import KEY_COLUMNS, HeaderIndex
from rasteret_assets.headers.retried import RETRIED_CLASSES
from rasteret_assets.headers.store import HeaderFileWriter, HeaderRowReader, HeaderStore
from rasteret_assets.schema import HEADER_SCHEMA, PARSER_VERSION, STATUS_FAILED, STATUS_OK
from rasteret_assets.storage.addresses.address import identity_hashes
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.streams import stream_writer

KEY = "2024-05"


def header_row(name: str, index: int = 0, width: int = 1, **changes: Any) -> dict[str, Any]:
    """Return the row of a header with this width, or of a failure with this error class."""
    href = f"https://h/{name}.tif"
    failed = changes.get("error_class") is not None
    return {
        "identity": identity_hashes(pa.array([href]))[0].as_py(), "href": href, "band_index": index,
        "status": STATUS_FAILED if failed else STATUS_OK, "attempts": 1,
        "attempted_at": datetime(2024, 5, 1, tzinfo=UTC), "parser_version": PARSER_VERSION,
        "header": None if failed else {"image_width": width, "tile_offsets": list(range(width % 7))}, **changes,
    }  # fmt: skip


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), HEADER_SCHEMA)


def targets(*files: tuple[str | None, int]) -> pa.Table:
    hrefs = pa.array([name and f"https://h/{name}.tif" for name, _ in files], pa.string())
    return pa.table({
        "identity": identity_hashes(hrefs), "band_index": pa.array([index for _, index in files], pa.int32())
    })  # fmt: skip


class Stored:
    """A store of some files, from the oldest to the newest."""

    def __init__(self, root: Path, *files: list[dict[str, Any]]) -> None:
        self.workspace = Workspace.at(f"{root}/s_records")
        for rows in files:
            self.add(*rows)

    @property
    def store(self) -> HeaderStore:
        return HeaderStore(self.workspace, KEY)

    def add(self, *rows: dict[str, Any]) -> str:
        writer = HeaderFileWriter(self.workspace, self.store)
        name, first = writer.put(table(*rows))
        assert first == 0
        writer.close()
        return name

    def found(self, *files: tuple[str | None, int]) -> list[int | str | None]:
        """Return for each file and sample the width of its stored header, the class of its failure, or None."""
        index = HeaderIndex.of(self.store)
        found = index.find(targets(*files))
        with HeaderRowReader(self.workspace, self.store, ["error_class", "header"]) as reader:
            rows = reader.take(index.names, found.files, found.rows).to_pylist()
        return [row["header"]["image_width"] if row["header"] else row["error_class"] for row in rows]


def test_headers_and_lasting_failures_are_found_in_the_store(tmp_path: Path) -> None:
    rows = [header_row("a", width=5), header_row("b", error_class="not_found"), header_row("c", error_class="corrupt")]
    stored = Stored(tmp_path, rows)
    assert stored.found(("a", 0), ("b", 0), ("c", 0), ("d", 0), (None, 0)) == [5, "not_found", "corrupt", None, None]


@pytest.mark.parametrize("error_class", RETRIED_CLASSES)
def test_failures_that_may_pass_are_not_found_in_the_store(tmp_path: Path, error_class: str) -> None:
    assert Stored(tmp_path, [header_row("a", error_class=error_class)]).found(("a", 0)) == [None]


def test_missing_files_are_found_in_the_store_after_the_days_to_wait(tmp_path: Path) -> None:
    hour = timedelta(hours=1)
    times = [None, retried.now() - hour, retried.now() + hour]
    rows = [header_row(f"f{n}", error_class="not_found", retry_until=until) for n, until in enumerate(times)]
    assert Stored(tmp_path, rows).found(("f0", 0), ("f1", 0), ("f2", 0)) == ["not_found", "not_found", None]


def test_files_of_before_missing_files_were_waited_for(tmp_path: Path) -> None:
    stored = Stored(tmp_path)
    store = stored.store
    rows = table(header_row("a", width=5), header_row("b", error_class="not_found")).drop_columns(["retry_until"])
    with stream_writer(stored.workspace, store.path(store.next_name()), rows.schema) as writer:
        writer.write(rows)
    assert stored.found(("a", 0), ("b", 0)) == [5, "not_found"]
    with HeaderRowReader(stored.workspace, stored.store, HEADER_SCHEMA.names) as reader:
        read = reader.take(stored.store.names, np.array([0, 0]), np.array([0, 1]))
    assert read.drop_columns(["retry_until"]).equals(rows)


def test_rows_of_another_parser_version_are_not_found_in_the_store(tmp_path: Path) -> None:
    versions = [PARSER_VERSION - 1, None, PARSER_VERSION + 1, PARSER_VERSION]
    rows = [header_row(f"f{n}", width=n + 1, parser_version=version) for n, version in enumerate(versions)]
    assert Stored(tmp_path, rows).found(*((f"f{n}", 0) for n in range(4))) == [None, None, None, 4]


def test_samples_of_one_file_are_distinguished(tmp_path: Path) -> None:
    rows = [header_row("a", index, width=10 + index) for index in (0, 2, 7)]
    rows.append(header_row("b", 2, error_class="unsupported"))
    stored = Stored(tmp_path, rows)
    wanted = [("a", 7), ("a", 1), ("a", 0), ("b", 2), ("b", 0), ("a", 2)]
    assert stored.found(*wanted) == [17, None, 10, "unsupported", None, 12]


def test_the_newest_file_counts(tmp_path: Path) -> None:
    stored = Stored(tmp_path, [header_row("a", width=1), header_row("b", width=1)], [header_row("a", width=2)])
    assert stored.found(("a", 0), ("b", 0)) == [2, 1]
    stored.add(header_row("a", error_class="not_found"))
    assert stored.found(("a", 0), ("b", 0)) == ["not_found", 1]
    # The header was asked for anew, because the known one was not trusted.
    stored.add(header_row("a", error_class="timeout"), header_row("b", error_class="timeout"))
    assert stored.found(("a", 0), ("b", 0)) == [None, None]
    for number in range(12):
        stored.add(header_row("a", width=100 + number))
    assert stored.found(("a", 0)) == [111]


def test_headers_added_later_are_found_and_go_before_earlier_ones(tmp_path: Path) -> None:
    stored = Stored(tmp_path, [header_row("a", width=1)])
    index = HeaderIndex.of(stored.store)
    rows = [header_row("a", width=2), header_row("b", width=3), header_row("c", error_class="timeout")]
    index.add([("000002-0.arrows", 5, table(*rows).select(list(KEY_COLUMNS)))])
    found = index.find(targets(("a", 0), ("b", 0), ("c", 0)))
    assert [index.names[file] if file >= 0 else None for file in found.files] == [
        "000002-0.arrows", "000002-0.arrows", None
    ]  # fmt: skip
    assert found.rows.tolist() == [5, 6, 7]
    assert [index.names[file] if file >= 0 else None for file in found.outdated] == [None, None, "000002-0.arrows"]


@settings(max_examples=60)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 30), st.booleans()), min_size=1, max_size=12, unique_by=lambda row: row[0]),
        max_size=25,
    )
)
def test_of_rows_that_come_in_a_few_at_a_time_the_last_counts(added: list[list[tuple[int, bool]]]) -> None:
    index = HeaderIndex()
    expected: dict[int, tuple[str, int] | None] = {}
    for number, rows in enumerate(added):
        name = f"{number % 3}"
        told = [header_row(str(file), error_class=None if holds else "timeout") for file, holds in rows]
        index.add([(name, 100 * number, table(*told).select(list(KEY_COLUMNS)))])
        expected |= {file: (name, 100 * number + at) if holds else None for at, (file, holds) in enumerate(rows)}
    found = index.find(targets(*((str(file), 0) for file in range(32))))
    places = [
        (index.names[file], row) if file >= 0 else None
        for file, row in zip(found.files.tolist(), found.rows.tolist(), strict=True)
    ]
    assert places == [expected.get(file) for file in range(32)]
    assert len(index) == sum(place is not None for place in expected.values())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_rows_of_many_files_come_in_any_order(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stores, "GROUP_ROWS", data.draw(st.sampled_from([1, 3, 4096])))
        patched.setattr(stores, "_CACHE_BYTES", data.draw(st.sampled_from([0, 2000, 2**20])))
        patched.setattr(stores, "_OPEN_FILES", data.draw(st.sampled_from([1, 64])))
        stored = Stored(tmp_path_factory.mktemp("many"))
        names = [
            stored.add(*(header_row(f"{file}-{row}", width=100 * file + row) for row in range(size)))
            for file, size in enumerate(sizes)
        ]
        place = st.one_of(
            st.just((-1, 0)),
            st.integers(0, len(sizes) - 1).flatmap(
                lambda file: st.tuples(st.just(file), st.integers(0, sizes[file] - 1))
            ),
        )
        places = data.draw(st.lists(place, max_size=60))
        columns = data.draw(st.sampled_from([["header"], ["href", "header"], HEADER_SCHEMA.names]))
        with HeaderRowReader(stored.workspace, stored.store, columns) as reader:
            files, rows = (np.array([pair[at] for pair in places], np.int64) for at in (0, 1))
            cut = data.draw(st.integers(0, len(places)))
            requests = [(files[:cut], rows[:cut]), (files[cut:], rows[cut:])]
            taken = reader.take(names, files, rows)
            assert pa.concat_tables(reader.take_each(names, requests)).equals(taken)
    assert taken.schema == pa.schema([HEADER_SCHEMA.field(name) for name in columns])
    found = [header and header["image_width"] for header in taken["header"].to_pylist()]
    assert found == [None if file < 0 else 100 * file + row for file, row in places]


def test_neighbours_are_read_from_one_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "GROUP_ROWS", 10)
    stored = Stored(tmp_path, [header_row(str(n), width=n) for n in range(100)])
    with HeaderRowReader(stored.workspace, stored.store, ["header"]) as reader:
        for first in range(0, 100, 5):
            rows = np.arange(first, first + 5)
            taken = reader.take(stored.store.names, np.zeros(5, np.int64), rows)
            assert [header["image_width"] for header in taken["header"].to_pylist()] == rows.tolist()
        assert reader.loads == 10


def test_no_batch_is_read_twice_for_several_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "GROUP_ROWS", 10)
    monkeypatch.setattr(stores, "_CACHE_BYTES", 1)
    stored = Stored(tmp_path, [header_row(str(n), width=n) for n in range(100)])
    with HeaderRowReader(stored.workspace, stored.store, ["header"]) as reader:
        requests = [np.arange(band, 100, 4) for band in range(4)]
        taken = reader.take_each(stored.store.names, [(np.zeros_like(rows), rows) for rows in requests])
        assert [table.num_rows for table in taken] == [25] * 4
        assert reader.loads == 10


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    stored = Stored(tmp_path, [header_row("a")], [header_row("b")])
    store = stored.store
    newest, oldest = store.names
    Path(store.path(oldest)).unlink()
    with HeaderRowReader(stored.workspace, store, ["header"]) as reader:
        assert reader.take([newest, oldest], np.array([0]), np.array([0])).num_rows == 1
        with pytest.raises(CollectionError, match=rf"{oldest} does not exist: build {KEY} again with force=True"):
            reader.take([newest, oldest], np.array([0, 1]), np.array([0, 0]))


def test_a_file_with_fewer_rows_than_are_named_is_named(tmp_path: Path) -> None:
    stored = Stored(tmp_path, [header_row("a"), header_row("b")])
    (name,) = stored.store.names
    with (
        HeaderRowReader(stored.workspace, stored.store, ["header"]) as reader,
        pytest.raises(CollectionError, match=rf"{name} holds fewer rows than its ledger names"),
    ):
        reader.take([name], np.array([0, 0]), np.array([1, 2]))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    stored = Stored(tmp_path, [header_row(str(n)) for n in range(50)])
    path = Path(stored.store.path(stored.store.names[0]))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=path.name):
        HeaderIndex.of(stored.store)
    path.write_bytes(b"")
    with pytest.raises(DamagedFileError, match=path.name):
        HeaderIndex.of(stored.store)


def test_other_files_of_the_folder_are_not_changed(tmp_path: Path) -> None:
    stored = Stored(tmp_path, [header_row("a")])
    folder = Path(stored.store.folder)
    for name in ("unused.parquet", "x.arrows", "1.arrows", "000009-zz.arrows", "000001-abc.arrows.tmp"):
        (folder / name).write_bytes(b"")
    assert len(stored.store.names) == 1
    assert stored.found(("a", 0)) == [1]


def test_a_file_that_is_not_closed_does_not_exist(tmp_path: Path) -> None:
    stored = Stored(tmp_path)
    store = stored.store
    writer = HeaderFileWriter(stored.workspace, store)
    name, first = writer.put(table(header_row("a")))
    assert writer.put(table(header_row("b"), header_row("c"))) == (name, 1)
    assert (first, stored.store.names) == (0, [])
    writer.close()
    writer.close()
    assert store.names == stored.store.names == [name]
    other, first = writer.put(table(header_row("d")))
    assert (first, stored.store.names) == (0, [name])
    writer.close()
    assert store.names == stored.store.names == [other, name]
    assert stored.found(("a", 0), ("b", 0), ("c", 0), ("d", 0)) == [1, 1, 1, 1]
