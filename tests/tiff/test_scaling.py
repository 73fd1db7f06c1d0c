"""Scale and offset of bands are those that GDAL reads, and any content of the metadata tag gives a valid header."""

from __future__ import annotations

import random
import time
import warnings
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from rasteret_assets.tiff import HeaderFamily, NeedBytes, TiffHeader, parse_header
from rasteret_assets.tiff.scaling import MAX_METADATA_BYTES, Scaling, read_scaling
from tests.tiff.damage import damage
from tests.tiff.support import as_values, craft, serve
from tests.tiff.test_against_rasterio import SLOW, profiles, write_geotiff

LAYOUTS = [("<", False), (">", False), ("<", True), (">", True)]
ITEM = '<Item name="SCALE" sample="0" role="scale">{}</Item>'


def document(*items: str) -> str:
    return f"<GDALMetadata>\n{'  '.join(items)}</GDALMetadata>\n"


def with_metadata(xml: str | bytes, *, bands: int = 1, **options: Any) -> bytes:
    """A file of uint16 samples whose metadata tag holds ``xml``."""
    content = xml if isinstance(xml, bytes) else xml.encode("latin-1") + b"\0"
    return craft({42112: (2, content), 277: (3, [bands]), 258: (3, [16] * bands)}, **options)


def of_gdal(file: bytes) -> tuple[list[float], list[float]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with MemoryFile(file) as memory, memory.open() as dataset:
            return list(dataset.scales), list(dataset.offsets)


def of_header(header: TiffHeader) -> tuple[list[float], list[float]]:
    """Scale and offset of each band, with the values of bands that state none."""
    bands = header.samples_per_pixel
    assert len(header.scales) in {0, bands}
    assert len(header.offsets) in {0, bands}
    return (
        [1.0 if value is None else value for value in header.scales or [None] * bands],
        [0.0 if value is None else value for value in header.offsets or [None] * bands],
    )


NUMBERS = st.one_of(st.sampled_from([1.0, 0.0, 0.0001, -0.1]), st.floats(allow_nan=False, allow_infinity=False))


@SLOW
@given(profile=profiles(), data=st.data())
def test_scales_are_what_gdal_wrote(profile: dict[str, Any], data: st.DataObject) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with MemoryFile() as memory:
            with memory.open(**profile) as dataset:
                for name in ("scales", "offsets"):
                    each = data.draw(st.lists(NUMBERS, min_size=dataset.count, max_size=dataset.count))
                    setattr(dataset, name, each)
                if data.draw(st.booleans()):
                    dataset.update_tags(1, STATISTICS_MEAN="17.5", note='<Item sample="0" role="scale">5</Item> & "')
            file = bytes(memory.read())
    header = parse_header([(0, file)], size=len(file))
    assert of_header(header) == of_gdal(file)
    # However it is cut; GDAL writes a tag that was set last behind the pixels.
    first = data.draw(st.integers(0, len(file)))
    assert as_values(serve(file, first=first)) == as_values(header)


@SLOW
@given(profile=profiles())
def test_files_without_scales_state_none(profile: dict[str, Any]) -> None:
    file = write_geotiff(profile)
    header = parse_header([(0, file)], size=len(file))
    assert (header.scales, header.offsets) == ((), ())


DOCUMENTS = {
    "plain": document(ITEM.format(2)),
    "in another order": document('<Item role="scale" sample="0" name="SCALE">2</Item>'),
    "single quotes": document("<Item name='SCALE' sample='0' role='scale'>2</Item>"),
    "blanks": document('<Item  name = "SCALE"\n sample = "0" role= "scale" >2</Item >'),
    "entities in attributes": document('<Item name="S&amp;C" sample="&#48;" role="sc&#97;le">2</Item>'),
    "entities in text": document(ITEM.format("&#48;.5&amp;")),
    "role in capitals": document('<Item name="SCALE" sample="0" role="SCALE">2</Item>'),
    "no sample: of the whole file": document('<Item name="SCALE" role="scale">2</Item>'),
    "no name": document('<Item sample="0" role="scale">2</Item>'),
    "no role": document('<Item name="SCALE" sample="0">2</Item>'),
    "another role": document('<Item name="SCALE" sample="0" role=" scale">2</Item>'),
    "a role twice": document('<Item name="SCALE" sample="0" role="offset" role="scale">2</Item>'),
    "another domain": document('<Item name="SCALE" sample="0" role="scale" domain="other">2</Item>'),
    "domain of the structure": document('<Item name="SCALE" sample="0" role="scale" domain="IMAGE_STRUCTURE">2</Item>'),
    "other items": document('<Item name="a&gt;b" sample="0">c</Item>', ITEM.format(2), '<Item name="role">d</Item>'),
    "a greater-than in an attribute": document('<Item name="a>b" sample="0" role="scale">2</Item>'),
    "twice": document(ITEM.format(3), ITEM.format(4)),
    "a sample that is not there": document('<Item name="SCALE" sample="9" role="scale">2</Item>'),
    "a negative sample": document('<Item name="SCALE" sample="-1" role="scale">2</Item>'),
    "a sample that is no number": document('<Item name="SCALE" sample="x" role="scale">2</Item>'),
    "a sample with more behind it": document('<Item name="SCALE" sample=" 0x" role="scale">2</Item>'),
    "of the second band": document('<Item name="SCALE" sample="1" role="scale">2</Item>'),
    "a comment": document(f"<!-- {ITEM.format(3)} -->", ITEM.format(2)),
    "a comment that looks like an end": document(ITEM.format(2), "<!-- </GDALMetadata> -->"),
    "a comment without an end": document(ITEM.format(2), "<!-- x"),
    "CDATA": document(ITEM.format("<![CDATA[2]]>")),
    "an item in CDATA": document(f'<Item name="a"><![CDATA[{ITEM.format(3)}]]></Item>', ITEM.format(2)),
    "an element within": document(ITEM.format("<b/>2")),
    "nothing": document(ITEM.format("")),
    "closed at once": document('<Item name="SCALE" sample="0" role="scale"/>'),
    "ampersands": document('<Item name="d" role="description">a & b</Item>', ITEM.format(2)),
    "letters beyond ASCII": document('<Item name="d">\xe9\xff</Item>', ITEM.format(2)),
    "a prolog": '<?xml version="1.0"?>\n' + document(ITEM.format(2)),
    "attributes of the root": '<GDALMetadata version="1">' + ITEM.format(2) + "</GDALMetadata>",
    "no root": ITEM.format(2),
    "another root": f"<Metadata>{ITEM.format(2)}</Metadata>",
    "more behind it": document(ITEM.format(2)) + "<more/>",
    "cut off behind an item": "<GDALMetadata>" + ITEM.format(2),
    "cut off in the end": document(ITEM.format(2)).rstrip()[:-4],
    "cut off in a number": document(ITEM.format(0.0001))[:70],
    "a NUL": document(ITEM.format(2)) + "\0" + document(ITEM.format(3)),
    "no XML": "scale, offset and role",
}


@pytest.mark.parametrize(("order", "big"), LAYOUTS)
@pytest.mark.parametrize("xml", DOCUMENTS.values(), ids=DOCUMENTS)
def test_documents_are_read_as_gdal_reads_them(xml: str, order: str, big: bool) -> None:
    file = with_metadata(xml, bands=2, order=order, big=big)
    assert of_header(serve(file)) == of_gdal(file)


@pytest.mark.parametrize(
    "text",
    ["0.5", "1,5", "1,5.6", "1.5,6", "1e-4x", " 0.1 ", "\n2\n", "-.5", "+3", "1d2", "1e", "1e400", "inf", "1_0", "1 2"],
)
def test_numbers_are_read_as_gdal_reads_them(text: str) -> None:
    file = with_metadata(document(ITEM.format(text), '<Item name="o" sample="0" role="offset">7</Item>'))
    assert of_header(serve(file)) == of_gdal(file)


def test_text_that_is_not_a_number_is_not_a_scale() -> None:
    """GDAL reads such a text as 0, so that all pixels would have one value."""
    file = with_metadata(document(ITEM.format("unknown")))
    assert of_gdal(file) == ([0.0], [0.0])
    assert serve(file).scales == ()


def test_values_that_say_nothing_new_are_kept_as_stated() -> None:
    assert serve(with_metadata(document(ITEM.format(1)), bands=3)).scales == (1.0, None, None)
    offset = document('<Item name="OFFSET" sample="2" role="offset">0</Item>')
    header = serve(with_metadata(offset, bands=3))
    assert (header.scales, header.offsets) == ((), (None, None, 0.0))


ATTRIBUTES = st.permutations(["name", "sample", "role", "domain"])
TEXTS = st.text(st.characters(max_codepoint=0x7E, min_codepoint=0x20), max_size=8)


@st.composite
def items(draw: st.DrawFn) -> str:
    """An Item, a comment, or CDATA, with whatever may stand in it."""
    kind = draw(st.sampled_from(["band"] * 4 + ["comment", "note"]))
    if kind == "comment":
        return f"<!--{draw(items())}-->" if draw(st.booleans()) else ""
    number = repr(draw(st.floats(-1e6, 1e6)))
    escaped = number if draw(st.booleans()) else "".join(f"&#{ord(letter)};" for letter in number)
    note = draw(TEXTS).replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;").replace("'", "&apos;")
    values = {
        "name": note or "n",
        "sample": draw(st.sampled_from(["0", "1", "2", "3", "-1", "x"])),
        "role": draw(st.sampled_from(["scale", "offset", "SCALE", "description", "unittype"])),
        "domain": draw(st.sampled_from(["", "other", "IMAGE_STRUCTURE"])),
    }
    names = draw(ATTRIBUTES)[: 4 if kind == "band" else draw(st.integers(0, 3))]
    quote = draw(st.sampled_from("\"'"))
    text = escaped if kind == "band" else note
    return f"<Item {' '.join(f'{name}={quote}{values[name]}{quote}' for name in names)}>{text}</Item>"


@SLOW
@given(st.lists(items(), max_size=6), st.sampled_from(LAYOUTS))
def test_random_documents_are_read_as_gdal_reads_them(parts: list[str], layout: tuple[str, bool]) -> None:
    parts = [part for part in parts if "--" not in part.strip("<>!-")]
    file = with_metadata(document(*parts), bands=3, order=layout[0], big=layout[1])
    theirs, ours = of_gdal(file), of_header(serve(file))
    for one, other in zip((*ours[0], *ours[1]), (*theirs[0], *theirs[1]), strict=True):
        # GDAL has 0 for a text that is not a number, where this parser keeps an earlier Item's number.
        assert one == other or other == 0


SCALED = with_metadata(
    document(*(f'<Item name="S" sample="{b}" role="scale">0.{b}5</Item>' for b in range(3))), bands=3
)


@given(st.integers(0, 2**32))
def test_no_header_fails_by_a_damaged_document(seed: int) -> None:
    good = document(ITEM.format(0.0001), '<Item name="O" sample="0" role="offset">&#45;1</Item>').encode()
    xml = damage(good, random.Random(seed))
    header = as_values(serve(with_metadata(xml or b"x")))
    sound = as_values(serve(with_metadata(good)))
    for name in ("scales", "offsets", "tile_offsets"):
        del header[name], sound[name]
    assert header == sound


@pytest.mark.parametrize("field", [(2, b"\0"), (2, b"abc\0"), (3, [60] * 40), (99, [1, 2, 3]), (12, [1.0] * 9)])
def test_a_tag_that_is_not_text_has_no_scale(field: Any) -> None:
    for order, big in LAYOUTS:
        assert serve(craft({42112: field}, order=order, big=big)).scales == ()


HOSTILE = {
    "entities that multiply": '<!DOCTYPE G [<!ENTITY a "role">'
    + "".join(f'<!ENTITY {"a" * n} "{"&" + "a" * (n - 1) + ";"}{"&" + "a" * (n - 1) + ";"}">' for n in range(2, 90))
    + "]>" + document(ITEM.format("&" + "a" * 89 + ";")),
    "comments that do not end": "<!--role" * 9000,
    "CDATA that does not end": "<![CDATA[role" * 5000,
    "roots that do not end": "<GDALMetadata>role" * 3000,
    "quotes that do not end": document('<Item role="' * 5000),
    "items that do not end": document("<Item role " * 5000),
    "ends that do not end": document("<Item role='scale'>2</Item " * 2000),
    "a long name": document("<Item role" + "a" * 60000 + ">2</Item>"),
    "many names": document("<Item role " + "a " * 30000 + ">2</Item>"),
    "many quotes": document("<Item role " + "a='" * 20000 + ">2</Item>"),
    "blanks": document("<Item role" + " " * 60000 + ">2</Item>"),
    "digits": document(ITEM.format("9" * 60000)),
    "digits of a sample": document(ITEM.format(2).replace('"0"', f'"{"9" * 60000}"')),
    "digits of an entity": document(ITEM.format("&#" + "9" * 60000 + ";")),
    "an entity of a long name": document(ITEM.format("&" + "a" * 60000 + ";")),
    "many entities": document(ITEM.format("&#" * 30000)),
}  # fmt: skip


@pytest.mark.parametrize("xml", HOSTILE.values(), ids=HOSTILE)
def test_no_document_takes_long(xml: str) -> None:
    started = time.process_time()
    assert isinstance(read_scaling(xml.encode(), 1), Scaling)
    assert time.process_time() - started < 1


def moved(file: bytes, place: int, length: int | None = None) -> bytes:
    """A little-endian file whose metadata tag names another place, and another length."""
    first = int.from_bytes(file[4:8], "little") + 2
    entries = range(first, first + 12 * int.from_bytes(file[first - 2 : first], "little"), 12)
    (entry,) = (at for at in entries if file[at : at + 2] == (42112).to_bytes(2, "little"))
    length = int.from_bytes(file[entry + 4 : entry + 8], "little") if length is None else length
    return file[: entry + 4] + length.to_bytes(4, "little") + place.to_bytes(4, "little") + file[entry + 12 :]


def test_a_document_far_behind_is_asked_for_once() -> None:
    xml = document(ITEM.format(0.5)).encode()
    file = moved(with_metadata(xml), 500_000).ljust(500_000, b"\0") + xml
    with pytest.raises(NeedBytes) as need:
        parse_header([(0, file[:16384])])
    assert need.value.ranges == ((500_000, len(xml)),)
    assert serve(file, max_rounds=2).scales == (0.5,)
    # With the other values, where those are missing too.
    with pytest.raises(NeedBytes) as need:
        parse_header([(0, file[:200])])
    assert need.value.ranges[-1] == (500_000, len(xml))
    assert len(need.value.ranges) == 2
    assert serve(file, first=200, max_rounds=2).scales == (0.5,)


def test_a_document_with_the_header_takes_no_further_read() -> None:
    assert parse_header([(0, SCALED[:4096])]).scales == (0.05, 0.15, 0.25)
    with pytest.raises(NeedBytes) as need:
        parse_header([(0, SCALED[:200])])
    assert len(need.value.ranges) == 1


def test_a_document_outside_the_file_is_none() -> None:
    for place in (10_000_000, 2**32 - 10):
        file = moved(with_metadata(document(ITEM.format(0.5))), place)
        assert parse_header([(0, file)], size=len(file)).scales == ()
        assert serve(file).scales == ()
        assert HeaderFamily.of(file, overviews=True) is None


def test_a_document_that_is_too_long_is_not_asked_for() -> None:
    file = with_metadata(document(ITEM.format(0.5)))
    too_long = moved(file, 500_000, MAX_METADATA_BYTES + 1)
    assert parse_header([(0, too_long)]).scales == ()
    assert parse_header([(0, moved(file, 500_000, 2**31))]).scales == ()
    xml = document(ITEM.format(0.5)).encode().rjust(MAX_METADATA_BYTES)
    assert serve(with_metadata(xml), first=4096).scales == (0.5,)
    assert serve(with_metadata(b" " + xml), first=4096).scales == ()
