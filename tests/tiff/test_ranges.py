"""The bytes that the parser asks for, and the number of rounds."""

from __future__ import annotations

import pytest

from rasteret_assets.errors import CorruptTiffError
from rasteret_assets.tiff import NeedBytes, parse_header
from rasteret_assets.tiff.buffer import SparseBuffer, merge_ranges
from tests.tiff.support import as_values, craft, serve


def ranges_of(pieces: list[tuple[int, bytes]], size: int | None = None) -> tuple[tuple[int, int], ...]:
    with pytest.raises(NeedBytes) as need:
        parse_header(pieces, size=size)
    return need.value.ranges


def test_nothing_read_asks_for_the_start() -> None:
    assert ranges_of([]) == ((0, 16384),)
    assert ranges_of([], size=5000) == ((0, 5000),)


def test_directory_at_the_end_is_asked_for_with_what_follows() -> None:
    file = craft(offset=100_000)
    assert ranges_of([(0, file[:16384])]) == ((100_000, 16384),)
    assert ranges_of([(0, file[:16384])], size=len(file)) == ((100_000, len(file) - 100_000),)
    assert serve(file, max_rounds=2).epsg == 32633


def test_all_far_values_are_asked_for_at_once() -> None:
    """Tile tables and a GeoKey directory behind the directory: one round, one merged range."""
    file = craft()
    directory_end = 10 + 12 * 14 + 4
    ((start, length),) = ranges_of([(0, file[:directory_end])])
    assert start == directory_end
    assert start + length <= 4096
    assert as_values(serve(file, first=directory_end, max_rounds=2)) == as_values(serve(file))


def test_only_the_missing_tail_of_a_value_is_asked_for() -> None:
    file = craft()
    (whole,) = ranges_of([(0, file[:182])])
    assert ranges_of([(0, file[:183])]) == ((183, whole[1] - 1),)


def test_pieces_in_any_order_overlapping_and_touching_count_as_one() -> None:
    file = craft()
    pieces = [(100, file[100:400]), (0, file[:60]), (60, file[60:120]), (350, file[350:])]
    assert as_values(parse_header(pieces)) == as_values(parse_header([(0, file)]))


def test_buffers_other_than_bytes_are_read_too() -> None:
    file = craft()
    assert as_values(parse_header([(0, memoryview(bytearray(file)))])) == as_values(parse_header([(0, file)]))


def test_a_cut_file_is_refused_once_its_size_is_known() -> None:
    file = craft()[:190]
    assert ranges_of([(0, file)])
    with pytest.raises(CorruptTiffError, match=r"truncated or damaged: .* the file ends at byte 190"):
        parse_header([(0, file)], size=190)


def test_near_ranges_are_merged_and_far_ones_are_not() -> None:
    assert merge_ranges([(500, 10), (0, 100)], gap=400) == [(0, 510)]
    assert merge_ranges([(500, 10), (0, 100)], gap=399) == [(0, 100), (500, 10)]
    assert merge_ranges([(0, 100), (20, 10)]) == [(0, 100)]


def test_buffer_reads_across_joined_pieces_only() -> None:
    buffer = SparseBuffer([(10, b"abcde"), (0, b"01234"), (15, b"fgh")], None)
    assert buffer.read(12, 5) == b"cdefg"
    assert buffer.read(3, 4) is None
    assert buffer.missing(12, 20) == (18, 14)
