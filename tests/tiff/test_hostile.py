"""Any bytes give a header, a request for more bytes or a TiffError, in little memory."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rasteret_assets.errors import CorruptTiffError, TiffError, UnsupportedTiffError
from rasteret_assets.headers._structs import header_structs
from rasteret_assets.tiff import NeedBytes, TiffHeader, parse_header
from tests.tiff.support import craft, geo_keys, serve

FAST = settings(max_examples=300, suppress_health_check=list(HealthCheck))
SOUND = [craft(order=order, big=big) for order in "<>" for big in (False, True)]
PEAK = 4 * 1024 * 1024


def try_parse(file: bytes, size: int | None) -> TiffHeader | NeedBytes | TiffError:
    tracemalloc.start()
    try:
        return parse_header([(0, file)], size=size)
    except (NeedBytes, TiffError) as outcome:
        return outcome
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < PEAK


def check_outcome(file: bytes, *, known_size: bool) -> None:
    outcome = try_parse(file, len(file) if known_size else None)
    if isinstance(outcome, NeedBytes):
        assert not known_size, "the whole file is there"
        assert outcome.ranges
        assert all(start >= 0 and 0 < length <= 130 * 1024 * 1024 for start, length in outcome.ranges)
    elif isinstance(outcome, TiffError):
        assert str(outcome)
    else:
        # Whatever counts as a header can be stored.
        assert header_structs([outcome], [0]).null_count == 0


@FAST
@given(body=st.binary(max_size=300), mark=st.sampled_from([b"", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"]))
@pytest.mark.parametrize("known_size", [True, False])
def test_random_bytes(body: bytes, mark: bytes, known_size: bool) -> None:
    check_outcome(mark + body, known_size=known_size)


@FAST
@given(
    file=st.sampled_from(SOUND),
    changes=st.lists(st.tuples(st.integers(0, 599), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4),
    cut=st.one_of(st.none(), st.integers(0, 700)),
)
@pytest.mark.parametrize("known_size", [True, False])
def test_damaged_headers(file: bytes, changes: list[tuple[int, bytes]], cut: int | None, known_size: bool) -> None:
    damaged = bytearray(file)
    for at, data in changes:
        damaged[at : at + len(data)] = data
    check_outcome(bytes(damaged[:cut]), known_size=known_size)


@FAST
@given(
    tag=st.sampled_from([256, 257, 258, 259, 277, 284, 317, 322, 323, 324, 325, 338, 339, 33550, 33922, 34735, 42113]),
    kind=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 16, 17, 99]),
    values=st.binary(max_size=64),
    big=st.booleans(),
)
def test_any_tag_of_any_type(tag: int, kind: int, values: bytes, big: bool) -> None:
    field = (kind, values) if kind in (2, 7, 99) else (1, values)
    file = bytearray(craft({tag: field}, big=big))
    entry = 20 if big else 12
    first = 24 if big else 10
    for at in range(first, first + entry * 40, entry):
        if struct.unpack_from("<H", file, at)[0] == tag:
            struct.pack_into("<H", file, at + 2, kind)
            break
    check_outcome(bytes(file), known_size=True)


@FAST
@given(
    keys=st.lists(
        st.tuples(
            st.sampled_from([1024, 1025, 2048, 2050, 2056, 2057, 2059, 3072, 3074, 3075, 3076, 3078, 3080, 3081, 3088]),
            st.sampled_from([0, 0, 0, 34735, 34736, 34737, 7]),
            st.integers(0, 3),
            st.one_of(st.integers(0, 40), st.sampled_from([1, 2, 8, 11, 4326, 4258, 7030, 9001, 16033, 32633, 32767])),
        ),
        max_size=12,
    ),
    doubles=st.lists(st.floats(width=64), min_size=1, max_size=4),
)
def test_any_geo_keys(keys: list[tuple[int, int, int, int]], doubles: list[float]) -> None:
    file = craft({34735: geo_keys(*keys), 34736: (12, doubles), 34737: (2, b"text|\0")})
    header = parse_header([(0, file)], size=len(file))
    assert header.epsg != 32767
    assert (header.epsg is None) or (header.crs == f"EPSG:{header.epsg}")


def test_table_of_an_absurd_grid_is_refused_by_its_length() -> None:
    side = 2**31 - 1
    with pytest.raises(CorruptTiffError, match="table length mismatch: TileOffsets has 4 entries"):
        serve(craft({256: (4, [side]), 257: (4, [side])}))


@pytest.mark.parametrize("size", [None, 8192])
def test_absurd_count_that_fits_the_grid_is_refused(size: int | None) -> None:
    file = bytearray(craft({256: (4, [2**31 - 1]), 257: (4, [2**31 - 1]), 322: (4, [16]), 323: (4, [16])}, big=True))
    for at in range(24, 24 + 20 * 14, 20):
        if struct.unpack_from("<H", file, at)[0] in (324, 325):
            struct.pack_into("<Q", file, at + 4, (2**27) ** 2)
    outcome = try_parse(bytes(file), size)
    assert isinstance(outcome, CorruptTiffError)
    assert "more than any header holds" in str(outcome)


def test_tile_too_large_to_decode_is_refused() -> None:
    changes = {256: (4, [1]), 257: (4, [1]), 322: (4, [2**30]), 323: (4, [2**30]), 324: (4, [4096]), 325: (4, [512])}
    with pytest.raises(UnsupportedTiffError, match="bytes decoded"):
        serve(craft(changes))


def test_directory_chain_is_not_followed() -> None:
    file = bytearray(craft())
    tags = struct.unpack_from("<H", file, 8)[0]
    struct.pack_into("<I", file, 10 + 12 * tags, 8)  # the next directory is this one
    assert serve(bytes(file)).width == 32


def test_messages_list_few_of_many_values() -> None:
    for changes in ({33550: (12, [0.0] * 5000)}, {258: (3, list(range(5000)))}, {259: (3, list(range(5000)))}):
        file = craft({**changes, 324: (4, [4096] * 4)})
        outcome = try_parse(file, len(file))
        assert isinstance(outcome, TiffError)
        assert len(str(outcome)) < 500


def test_values_beyond_any_header_are_refused_even_where_they_are_at_hand() -> None:
    file = craft({33922: (12, [0.0] * 131_073)})
    for first in (1024, len(file)):
        with pytest.raises(CorruptTiffError, match="ModelTiepoint claims 131073 values"):
            serve(file, first=first)
