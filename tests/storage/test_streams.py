"""Tables as Arrow streams: rows are read in whole or in part, and any changed byte is an error that names the file."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rasteret_assets.errors import CollectionError, DamagedFileError
from rasteret_assets.schema import BAND_STRUCT, BBOX_TYPE
from rasteret_assets.storage.workspace.files import Files
from rasteret_assets.storage.workspace.streams import StreamTable, open_stream, put_messages, stream_writer
from tests.storage.conftest import Place

ROWS = 500


def rows(count: int = ROWS, first: int = 0) -> pa.Table:
    """Rows with the kinds of column that records and headers have, nested ones and nulls among them."""
    numbers = np.arange(first, first + count)
    box = {"xmin": 1.0, "ymin": 2.0, "xmax": 3.0, "ymax": 4.0}
    header = {"image_width": 5, "tile_offsets": [1, 2, 3], "overviews": [{"tile_offsets": [7]}]}
    return pa.table({
        "id": pa.array([f"é{number}" for number in numbers], pa.string()),
        "bbox": pa.array([box if number % 3 else None for number in numbers], BBOX_TYPE),
        "number": pa.array(numbers),
        "header": pa.array([header if number % 2 else None for number in numbers], BAND_STRUCT),
        "nothing": pa.nulls(count),
        "wkb": pa.array([bytes([number % 256]) * (number % 7) for number in numbers], pa.binary()),
    })  # fmt: skip


def write(files: Files, path: str, *tables: pa.Table, schema: pa.Schema | None = None, **notes: object) -> None:
    with stream_writer(files, path, schema or tables[0].schema) as writer:
        for table in tables:
            writer.write(table)
        writer.notes = notes


def read(files: Files, path: str, columns: list[str] | None = None) -> pa.Table:
    stream = opened(files, path)
    return pa.Table.from_batches(list(stream.batches(columns)))


def opened(files: Files, path: str) -> StreamTable:
    stream = open_stream(files, path)
    assert stream is not None
    return stream


@pytest.fixture
def files(on_disk_or_s3: Place) -> Files:
    fs, folder = on_disk_or_s3
    return Files(fs=fs, stages=f"{folder}/stages")


@pytest.fixture
def path(files: Files) -> str:
    return f"{files.stages}/raw_records/2024-05.arrows"


def content_of(files: Files, path: str) -> bytes:
    with files.fs.open_input_file(path) as source:
        return source.read()


def replace(files: Files, path: str, content: bytes) -> None:
    with files.fs.open_output_stream(path) as sink:
        sink.write(content)


def test_what_is_written_comes_back_in_the_batches_it_was_written_in(files: Files, path: str) -> None:
    first, second = rows(300), rows(200, 300)
    write(files, path, first, first.slice(0, 0), second, facts={"rows": 500}, names=["a"])
    stream = opened(files, path)
    assert (stream.rows, [message.rows for message in stream.messages]) == (500, [300, 200])
    assert stream.notes == {"facts": {"rows": 500}, "names": ["a"]}
    assert stream.schema == first.schema
    assert [batch.num_rows for batch in stream.batches()] == [300, 200]
    assert read(files, path).equals(pa.concat_tables([first, second]))
    assert stream.batch(stream.messages[1]).equals(second.combine_chunks().to_batches()[0])


@pytest.mark.parametrize("columns", [["number"], ["wkb", "id"], ["header", "nothing", "bbox"], rows(1).column_names])
def test_columns_are_read_in_the_order_asked_for(files: Files, path: str, columns: list[str]) -> None:
    table = rows()
    write(files, path, table)
    assert read(files, path, columns).equals(table.select(columns))


def test_the_schema_keeps_its_metadata(files: Files, path: str) -> None:
    schema = rows(1).schema.with_metadata({"recipe": '{"é": 1}'})
    write(files, path, rows(), schema=schema)
    assert opened(files, path).schema.equals(schema, check_metadata=True)


def test_a_stream_without_rows_is_valid(files: Files, path: str) -> None:
    write(files, path, rows(0), notes_are="kept")
    stream = opened(files, path)
    assert (stream.rows, stream.messages, stream.notes) == (0, (), {"notes_are": "kept"})
    assert stream.schema == rows(0).schema
    assert list(stream.batches()) == []


def test_what_does_not_exist_is_none(files: Files, path: str) -> None:
    assert open_stream(files, path) is None


def test_messages_that_are_encoded_already_are_a_stream(files: Files, path: str) -> None:
    table = rows()
    write(files, path, table.slice(0, 200), table.slice(200))
    stream = opened(files, path)
    messages = [(message.rows, memoryview(stream.content(message)).tobytes()) for message in stream.messages]
    schema = table.schema.with_metadata({"other": "metadata"})
    put_messages(files, f"{path}2", schema, [messages[1], messages[0]], {"n": 1})
    made = opened(files, f"{path}2")
    assert made.schema.equals(schema, check_metadata=True)
    assert made.notes == {"n": 1}
    assert read(files, f"{path}2").equals(pa.concat_tables([table.slice(200), table.slice(0, 200)]))
    put_messages(files, f"{path}3", schema, [], {})
    assert opened(files, f"{path}3").rows == 0


def test_equal_streams_have_equal_digests_and_others_do_not(tmp_path: Path) -> None:
    files = Files(fs=pafs.LocalFileSystem(), stages=str(tmp_path / "stages"))
    digests = []
    for table in (rows(), rows(), rows(ROWS, 1), rows().slice(0, ROWS - 1), rows().append_column("x", pa.nulls(ROWS))):
        with stream_writer(files, f"{files.stages}/x.arrows", table.schema) as writer:
            writer.write(table)
        digests.append(writer.written.digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 4


def test_nothing_replaces_a_stream_whose_writing_fails(files: Files, path: str) -> None:
    write(files, path, rows())

    def fail() -> None:
        with stream_writer(files, path, rows(0).schema) as writer:
            writer.write(rows(3))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert opened(files, path).rows == ROWS


def test_standard_readers_open_the_file(tmp_path: Path) -> None:
    files, path = Files(fs=pafs.LocalFileSystem(), stages=str(tmp_path)), f"{tmp_path}/x.arrows"
    table = rows().drop_columns(["nothing"])
    write(files, path, table.slice(0, 100), table.slice(100))
    with pa.OSFile(path) as source, pa.ipc.open_stream(source) as reader:
        assert reader.read_all().equals(table)
    found = pl.read_ipc_stream(path).to_arrow()
    assert found["number"].to_pylist() == table["number"].to_pylist()
    assert found["header"].to_pylist() == table["header"].to_pylist()
    with pa.OSFile(path) as source, pa.ipc.open_stream(source) as reader:
        (total,) = duckdb.sql("select sum(number) from reader").fetchone() or ()
    assert total == sum(range(ROWS))


# --- damage ----------------------------------------------------------------------------------------------------------


class Stream:
    """A valid stream, whose bytes a test replaces.

    Args:
        files: where it lies.
        path: of the file.
    """

    def __init__(self, files: Files, path: str) -> None:
        self.files, self.path, self.content = files, path, Path(path).read_bytes()

    def refuses(self, content: bytes) -> bool:
        """Return whether other content is refused with the name of the file, on opening or on reading all of it."""
        Path(self.path).write_bytes(content)
        return refused(self.files, self.path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    """A stream of three batches, some notes and metadata."""
    folder = tmp_path_factory.mktemp("damage")
    files, path = Files(fs=pafs.LocalFileSystem(), stages=str(folder)), f"{folder}/x.arrows"
    schema = rows(1).schema.with_metadata({"recipe": "r" * 50})
    write(files, path, rows(40), rows(1, 40), rows(9, 41), schema=schema, digests=["ab" * 16], places=[[0], [0], [0]])
    return Stream(files, path)


def refused(files: Files, path: str) -> bool:
    try:
        for _ in opened(files, path).batches():
            pass
    except DamagedFileError as error:
        return error.path == path and path in str(error) and "damaged" in str(error)
    return False


@settings(max_examples=1500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_wherever_it_is(sound: Stream, place: float, bit: int) -> None:
    changed = bytearray(sound.content)
    changed[int(place * len(changed))] ^= 1 << bit
    assert sound.refuses(changed)


def test_every_flipped_bit_near_the_end_is_refused(sound: Stream) -> None:
    for distance in range(1, 400):
        for bit in range(8):
            changed = bytearray(sound.content)
            changed[-distance] ^= 1 << bit
            assert sound.refuses(changed), (distance, bit)


@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.floats(0, 1, exclude_max=True), zeros=st.booleans())
def test_a_stream_that_is_cut_is_refused_at_any_length(sound: Stream, length: float, zeros: bool) -> None:
    kept = sound.content[: int(length * len(sound.content))]
    # As some filesystems leave it after a power cut: of the right length, and zero from somewhere on.
    left = kept.ljust(len(sound.content), b"\0") if zeros else kept
    assert left == sound.content or sound.refuses(left)


def test_a_byte_added_before_or_after_a_stream_is_refused(sound: Stream) -> None:
    content = sound.content
    for changed in (content + b"\0", b"\0" + content, content + content, content[1:]):
        assert sound.refuses(changed)


@pytest.mark.parametrize("content", [b"", b"\0", bytes(12), b"PAR1", b"\xff" * 100, b'{"messages": []}' + bytes(12)])
def test_an_empty_file_and_a_file_of_another_kind_are_called_damaged(files: Files, path: str, content: bytes) -> None:
    write(files, path, rows())
    replace(files, path, content)
    with pytest.raises(DamagedFileError, match=r"2024-05\.arrows: damaged .*build it again with force") as caught:
        open_stream(files, path)
    assert caught.value.path == path


@pytest.mark.parametrize("part", ["head", "batch", "second batch", "end", "line", "trailer"])
def test_damage_is_refused_by_name_wherever_it_lies(files: Files, path: str, part: str) -> None:
    write(files, path, rows(300), rows(200, 300))
    stream, content = opened(files, path), bytearray(content_of(files, path))
    first, second = stream.messages
    place = {
        "head": 40, "batch": first.first + 100, "second batch": second.first + second.size - 1,
        "end": second.first + second.size + 1, "line": second.first + second.size + 20, "trailer": len(content) - 6,
    }[part]  # fmt: skip
    content[place] ^= 4
    replace(files, path, bytes(content))
    assert refused(files, path)
    if part == "second batch":
        # Only what is read is compared.
        assert opened(files, path).batch(first).num_rows == 300
        with pytest.raises(DamagedFileError):
            opened(files, path).batch(second, ["number"])


def test_a_large_line_at_the_end_is_read_too(files: Files, path: str) -> None:
    write(files, path, rows(), names=["n" * 1000] * 400)
    assert opened(files, path).notes["names"][-1] == "n" * 1000
    assert read(files, path).equals(rows())


def test_a_folder_in_the_place_of_a_stream_is_named(tmp_path: Path) -> None:
    files = Files(fs=pafs.LocalFileSystem(), stages=str(tmp_path))
    (tmp_path / "x.arrows").mkdir()
    with pytest.raises(CollectionError, match=r"x\.arrows"):
        open_stream(files, f"{tmp_path}/x.arrows")


def test_a_stream_is_read_on_while_it_is_replaced(tmp_path: Path) -> None:
    files, path = Files(fs=pafs.LocalFileSystem(), stages=str(tmp_path)), f"{tmp_path}/x.arrows"
    write(files, path, rows(300), rows(200, 300))
    stream = opened(files, path)
    write(files, path, rows(7))
    assert pa.Table.from_batches(list(stream.batches())).equals(rows())
    assert opened(files, path).rows == 7


def test_an_object_that_is_replaced_while_it_is_read_is_never_mixed(on_s3: Place) -> None:
    fs, folder = on_s3
    files = Files(fs=fs, stages=folder)
    path = f"{files.stages}/x.arrows"
    write(files, path, *(rows(300, 300 * number) for number in range(4)))
    stream = opened(files, path)
    write(files, path, *(rows(301, 9 * number) for number in range(5)))
    found: list[int] = []
    with suppress(DamagedFileError):
        for batch in stream.batches(["number"]):
            found += batch.column(0).to_pylist()
    assert found == list(range(len(found)))


def test_many_threads_read_one_stream(files: Files, path: str) -> None:
    table = rows(400)
    write(files, path, *(table.slice(first, 10) for first in range(0, 400, 10)))
    stream = opened(files, path)
    problems: list[object] = []

    def some(number: int) -> None:
        for place in np.random.default_rng(number).permutation(40):
            batch = stream.batch(stream.messages[place], ["number"])
            if batch.column(0).to_pylist() != list(range(10 * place, 10 * place + 10)):
                problems.append(place)

    threads = [threading.Thread(target=some, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
