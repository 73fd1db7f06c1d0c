"""A header that is read as a member of a family equals the parsed one."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rasterio.io import MemoryFile

from rasteret_assets.errors import TiffError
from rasteret_assets.headers._structs import header_structs
from rasteret_assets.tiff import FamilyMember, HeaderFamily, NeedBytes, TiffHeader, parse_header
from rasteret_assets.tiff.parse import read_shared
from tests.support.rasters import tiff_bytes
from tests.tiff.damage import damage
from tests.tiff.support import craft

DOCUMENT = b"""<GDALMetadata>
  <Item name="STATISTICS_MEAN" sample="0">17.25</Item>
  <Item name="OFFSET" sample="0" role="offset">-0.1</Item>
  <Item name="SCALE" sample="0" role="scale">0.001</Item>
</GDALMetadata>
\0"""


def with_scaling(file: bytes) -> bytes:
    """Return the file with other scales, offsets and statistics, next to its directory."""
    with MemoryFile(file) as memory:
        with memory.open() as source:
            profile, pixels = source.profile, source.read()
        profile["bigtiff"] = "yes" if file[2] == 43 else "no"
        with MemoryFile() as copy:
            with copy.open(**profile) as target:
                target.scales = [0.5 * (band + 1) for band in range(target.count)]
                target.offsets = [-float(band) for band in range(target.count)]
                target.update_tags(1, STATISTICS_MEAN="17.25")
                target.write(pixels)
            return bytes(copy.read())


FILES = {
    "cog": tiff_bytes(width=700, height=500, driver="COG", blocksize=128),
    "cog, bigtiff": tiff_bytes(width=300, height=500, driver="COG", blocksize=128, bigtiff="yes", overview_count=3),
    "cog, jpeg": tiff_bytes(
        width=300, height=300, bands=3, dtype="uint8", driver="COG", blocksize=128, compress="jpeg"
    ),
    "classic, big-endian": tiff_bytes(dtype="float32", nodata=-9999.0, endianness="big"),
    "bigtiff": tiff_bytes(bands=4, dtype="uint8", bigtiff="yes"),
    "bigtiff, crafted": craft({324: (16, [2**40 + 512 * i for i in range(4)])}, order=">", big=True),
    "planes": tiff_bytes(bands=3, interleave="band"),
    "jpeg": tiff_bytes(bands=3, dtype="uint8", compress="jpeg", photometric="ycbcr"),
    "scaled": with_scaling(tiff_bytes(bands=3, dtype="int16")),
    "scaled planes": with_scaling(tiff_bytes(bands=3, interleave="band", bigtiff="yes")),
    "scaled, big-endian": craft({42112: (2, DOCUMENT)}, order=">"),
    "one tile": tiff_bytes(width=100, height=100, driver="COG", blocksize=128),
}


def parsed(data: bytes, *, overviews: bool = True) -> TiffHeader | None:
    try:
        return parse_header([(0, data)], overviews=overviews)
    except (TiffError, NeedBytes):
        return None


def family_of(file: bytes, *, overviews: bool = True) -> HeaderFamily:
    family = HeaderFamily.of(file, overviews=overviews)
    assert family is not None
    return family


def assert_same(member: FamilyMember, header: TiffHeader | None) -> None:
    assert header is not None
    # Damage may make 65 535 bands of one.
    for band in {*range(min(8, header.samples_per_pixel)), header.samples_per_pixel - 1}:
        of_member, alone = header_structs([member], [band]), header_structs([header], [band])
        assert of_member.type == alone.type
        # As text: a damaged pixel scale may be NaN, which equals nothing.
        assert repr(of_member.to_pylist()) == repr(alone.to_pylist())


def with_own_values(file: bytes, family: HeaderFamily, seed: int) -> bytes:
    """Return a file of the same family with other tables and another tie point."""
    rng = np.random.default_rng(seed)
    changed = bytearray(file)
    for table in (table for image in family.images for table in image):
        values = rng.integers(0, np.iinfo(table.dtype).max // 4, table.values).astype(table.dtype)
        changed[table.start : table.start + values.nbytes] = values.tobytes()
    place = family.tiepoint
    family.reals.pack_into(changed, place.start, *rng.normal(size=place.values))
    return bytes(changed)


@pytest.mark.parametrize("overviews", [True, False])
@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_files_with_other_tables_and_places_are_members(file: bytes, overviews: bool) -> None:
    family = family_of(file, overviews=overviews)
    for seed in range(5):
        other = with_own_values(file, family, seed)
        member = family.match(other)
        assert member is not None
        assert_same(member, parsed(other, overviews=overviews))
        assert family.match(other[: family.end]) is not None
        assert family.match(other[: family.end - 1]) is None


def with_documents(file: bytes, count: int, *, own_scale: bool) -> list[bytes]:
    """Files of one family with other statistics in documents of one length, and with other scales."""
    assert file.count(b"17.25") == 1
    files = [file.replace(b"17.25", f"{mean:05.2f}".encode()) for mean in range(count)]
    if own_scale:
        assert file.count(b">0.5<") == 1
        files = [one.replace(b">0.5<", f">{number % 10}.5<".encode()) for number, one in enumerate(files)]
    return files


@pytest.mark.parametrize("name", ["scaled", "scaled planes"])
@pytest.mark.parametrize("own_scale", [False, True])
def test_members_have_their_own_documents_and_scales(name: str, own_scale: bool) -> None:
    family = family_of(FILES[name])
    files = with_documents(FILES[name], 40, own_scale=own_scale)
    read_shared.cache_clear()
    members = [family.match(with_own_values(file, family, seed)) for seed, file in enumerate(files)]
    # What differs in the documents is no reason to interpret everything else again.
    assert read_shared.cache_info().misses == 1
    assert None not in members
    for band in range(3):
        structs = header_structs(members, [band] * len(members)).to_pylist()
        scales = [number % 10 + 0.5 if own_scale and not band else 0.5 * (band + 1) for number in range(40)]
        assert [struct["scale"] for struct in structs] == scales
        assert {struct["offset"] for struct in structs} == {float(-band)}
    for seed, (member, file) in enumerate(zip(members, files, strict=True)):
        assert member is not None
        assert_same(member, parsed(with_own_values(file, family, seed)))


def test_a_document_that_states_no_scale_makes_one_member_unscaled() -> None:
    family = family_of(FILES["scaled"])
    other = FILES["scaled"].replace(b'role="', b'rule="')
    member = family.match(other)
    assert member is not None
    assert header_structs([member, family.match(FILES["scaled"])], [0, 0]).field("scale").to_pylist() == [None, 0.5]
    assert_same(member, parsed(other))


@settings(max_examples=300)
@given(st.sampled_from(sorted(FILES)), st.integers(0, 2**32), st.booleans(), st.integers(64, 8192))
def test_a_damaged_file_is_a_valid_header_or_not_a_member(name: str, seed: int, overviews: bool, kept: int) -> None:
    file = FILES[name]
    family = family_of(file, overviews=overviews)
    damaged = damage(file, random.Random(seed))[:kept]
    if (member := family.match(damaged)) is not None:
        assert_same(member, parsed(damaged, overviews=overviews))


@settings(max_examples=300)
@given(st.sampled_from(sorted(FILES)), st.integers(0, 2**32), st.booleans())
@example(name="cog", seed=21790332, overviews=True)  # one table of an overview is near, the other is not
def test_the_family_of_a_damaged_file_takes_no_header_that_is_not_sound(name: str, seed: int, overviews: bool) -> None:
    damaged = damage(FILES[name], random.Random(seed))
    if parsed(damaged, overviews=overviews) is None:
        return
    family = HeaderFamily.of(damaged, overviews=overviews)
    if family is None:
        return
    for other in (
        damaged,
        FILES[name],
        with_own_values(damaged, family, seed),
        damage(damaged, random.Random(seed + 1)),
    ):
        if (member := family.match(other)) is not None:
            assert_same(member, parsed(other, overviews=overviews))


def test_files_with_values_beyond_63_bits_are_not_members() -> None:
    file = FILES["bigtiff, crafted"]
    family = family_of(file)
    table = family.images[0].offsets
    broken = bytearray(file)
    broken[table.start : table.start + 8] = (2**63).to_bytes(8, "big")
    assert family.match(bytes(broken)) is None


def test_a_matrix_places_no_family() -> None:
    file = craft({33550: None, 33922: None, 34264: (12, [10.0, 0, 0, 5e5, 0, -10.0, 0, 46e5, 0, 0, 0, 0, 0, 0, 0, 1])})
    assert parsed(file) is not None
    assert HeaderFamily.of(file, overviews=True) is None


@given(st.lists(st.tuples(st.sampled_from([None, *FILES]), st.booleans(), st.integers(0, 2)), max_size=30))
@settings(max_examples=60)
def test_rows_stay_in_their_order_whoever_parsed_them(rows: list[tuple[str | None, bool, int]]) -> None:
    families = {name: family_of(file) for name, file in FILES.items()}
    mixed, alone, bands = [], [], []
    for seed, (name, as_member, band) in enumerate(rows):
        other = None if name is None else with_own_values(FILES[name], families[name], seed)
        header = None if other is None else parsed(other)
        alone.append(header)
        mixed.append(families[name].match(other) if as_member and name is not None else header)
        bands.append(band if header is not None and band < header.samples_per_pixel else 0)
    result = header_structs(mixed, bands)
    result.validate(full=True)
    assert result.equals(header_structs(alone, bands))
    assert pa.types.is_struct(result.type)


def test_what_ends_the_chain_of_directories_counts_too() -> None:
    # The first directory is followed by one of no entries, which is no overview; in another file one stands there.
    file = FILES["cog"]
    whole = family_of(file)
    assert len(whole.images) > 1
    link = first_link(file)
    second = int.from_bytes(file[link : link + 4], "little")
    ended = bytearray(file)
    ended[second : second + 2] = b"\0\0"
    family = family_of(bytes(ended))
    assert len(family.images) == 1
    assert family.match(file) is None


def test_a_chain_that_leads_out_of_the_file_has_no_family() -> None:
    file = FILES["cog"]
    link = first_link(file)
    cut = bytearray(file[: family_of(file, overviews=False).end + 8])
    cut[link : link + 4] = (len(cut) + 4).to_bytes(4, "little")
    assert parse_header([(0, bytes(cut))], size=len(cut)).overviews == ()
    assert HeaderFamily.of(bytes(cut), overviews=True) is None


def first_link(file: bytes) -> int:
    """Return the position of the link from the first directory of a little-endian TIFF to the second."""
    first = int.from_bytes(file[4:8], "little")
    return first + 2 + 12 * int.from_bytes(file[first : first + 2], "little")
