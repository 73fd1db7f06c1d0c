"""The rules of the formats one by one, and the messages of refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyproj
import pytest

from rasteret_assets.errors import (
    CorruptTiffError,
    NotATiffError,
    NotGeoreferencedError,
    NotTiledError,
    TiffError,
    UnsupportedTiffError,
)
from rasteret_assets.tiff.nodata import parse_nodata
from tests.tiff.support import craft, geo_keys, serve

NORTH_UP = [100.0, 0, 0, 1000, 0, -100, 0, 2000, 0, 0, 0, 0, 0, 0, 0, 1]
POINT = geo_keys((1024, 0, 1, 1), (1025, 0, 1, 2), (3072, 0, 1, 32633))


def only_matrix(values: list[float], **more: Any) -> dict[int, Any]:
    return {33550: None, 33922: None, 34264: (12, values)} | {int(tag[1:]): field for tag, field in more.items()}


REFUSED: dict[str, tuple[dict[int, Any], type[TiffError], str]] = {
    "strips": ({322: None, 323: None, 324: None, 325: None, 273: (4, [4096])}, NotTiledError, "stored in strips"),
    "no tile length": ({323: None}, CorruptTiffError, "no TileLength tag"),
    "no width": ({256: None}, CorruptTiffError, "no ImageWidth tag"),
    "zero tile width": ({322: (3, [0])}, CorruptTiffError, "TileWidth is 0, zero or negative"),
    "huge photometric": (
        {262: (4, [2**31])},
        CorruptTiffError,
        "PhotometricInterpretation is 2147483648, beyond 31 bits",
    ),
    "huge extra sample": ({338: (4, [2**31])}, CorruptTiffError, "ExtraSamples is 2147483648, beyond 31 bits"),
    "huge width": ({256: (4, [2**31])}, CorruptTiffError, "ImageWidth is 2147483648, beyond 31 bits"),
    "width as real": ({256: (12, [32.0])}, CorruptTiffError, "one integer was expected"),
    "two widths": ({256: (3, [32, 32])}, CorruptTiffError, "ImageWidth holds 2 values"),
    "few tiles": ({324: (4, [4096] * 3)}, CorruptTiffError, "table length mismatch: TileOffsets has 3 entries"),
    "many tiles": ({324: (4, [4096] * 5)}, CorruptTiffError, "table length mismatch: TileOffsets has 5 entries"),
    "few counts": ({325: (4, [512] * 3)}, CorruptTiffError, "table length mismatch: TileByteCounts has 3 entries"),
    "no counts": ({325: None}, CorruptTiffError, "TileByteCounts has 0 entries"),
    "few planes": ({284: (3, [2]), 277: (3, [2])}, CorruptTiffError, r"2 plane\(s\) make 8 tiles"),
    "planar 3": ({284: (3, [3])}, CorruptTiffError, "PlanarConfiguration is 3"),
    "no samples": ({277: (3, [0])}, CorruptTiffError, "SamplesPerPixel is 0"),
    "negative offset": ({324: (9, [-1, 1, 1, 1])}, CorruptTiffError, "negative or beyond 63 bits"),
    "real offsets": ({324: (11, [1.0] * 4)}, CorruptTiffError, "TileOffsets is of field type 11; integers"),
    "complex": ({258: (3, [64]), 339: (3, [6])}, UnsupportedTiffError, "complex samples"),
    "packed": ({258: (3, [12])}, UnsupportedTiffError, r"packed samples \(BitsPerSample=12"),
    "one bit by default": ({258: None}, UnsupportedTiffError, r"packed samples \(BitsPerSample=1,"),
    "sample format 9": ({339: (3, [9])}, UnsupportedTiffError, "unknown samples"),
    "mixed bands": ({277: (3, [2]), 258: (3, [8, 16])}, UnsupportedTiffError, "bands of different types"),
    "old jpeg": ({259: (3, [6])}, UnsupportedTiffError, r"compression 6 \(old-style JPEG\)"),
    "unknown codec": ({259: (3, [999])}, UnsupportedTiffError, r"compression 999 \(unknown\)"),
    "reversed bits": ({266: (3, [2])}, UnsupportedTiffError, "FillOrder is 2"),
    "predictor 4": ({259: (3, [8]), 317: (3, [4])}, UnsupportedTiffError, "Predictor is 4"),
    "predictor 3 on integers": ({259: (3, [8]), 317: (3, [3])}, CorruptTiffError, "Predictor is 3 .* uint16"),
    "no position": ({33550: None, 33922: None}, NotGeoreferencedError, "no georeferencing: no ModelPixelScale"),
    "control points": (
        {33550: None, 33922: (12, [0.0] * 24)},
        NotGeoreferencedError,
        r"4 ground control point\(s\) only",
    ),
    "no tie point": ({33922: None}, NotGeoreferencedError, "ModelTiepoint has 0 of 6 values"),
    "zero scale": ({33550: (12, [0.0, 0.0, 0.0])}, NotGeoreferencedError, r"pixel scale is \[0.0, 0.0, 0.0\], zero"),
    "short matrix": (only_matrix(NORTH_UP[:12]), NotGeoreferencedError, "has 12 values instead of 16"),
    "zero matrix": (only_matrix([0.0] * 16), NotGeoreferencedError, "has a zero scale"),
    "not finite": ({33550: (12, [math.nan, 1.0, 0.0])}, NotGeoreferencedError, "not finite"),
    "not finite matrix": (only_matrix([math.inf, math.nan, *NORTH_UP[2:]]), NotGeoreferencedError, "not finite"),
    "rotated": (only_matrix([8.0, 6, 0, 0, 6, -8, *NORTH_UP[6:]]), UnsupportedTiffError, "rotated geotransform"),
    "quarter turn": (only_matrix([0.0, 5, 0, 0, 5, 0, *NORTH_UP[6:]]), UnsupportedTiffError, "rotated geotransform"),
    "sheared": (only_matrix([100.0, 31, 0, 0, 0, -100, *NORTH_UP[6:]]), UnsupportedTiffError, "sheared geotransform"),
}


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_refusal_says_why(changes: dict[int, Any], error: type[TiffError], message: str) -> None:
    with pytest.raises(error, match=message):
        serve(craft(changes))


NO_TIFF = {
    "empty": (b"", "the file is empty"),
    "one byte": (b"I", "the file has 1 bytes; a TIFF header takes 8"),
    "page": (b"<!DOCTYPE html><html>", "an HTML, XML or JSON page"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "version": (b"II,\0" + bytes(100), "the version is 44; 42"),
}


@pytest.mark.parametrize(("file", "message"), NO_TIFF.values(), ids=NO_TIFF)
def test_no_tiff_says_what_it_looks_like(file: bytes, message: str) -> None:
    with pytest.raises(NotATiffError, match=message):
        serve(file)


BROKEN = {
    "header only": (b"II*\0\x08\0\0\0", "truncated or damaged: the first directory"),
    "directory in header": (b"II*\0\x04\0\0\0" + bytes(9), "inside the header itself"),
    "no entries": (b"II*\0\x08\0\0\0" + bytes(9), "claims 0 tags"),
    "offset size": (b"II+\0\x04\0\0\0" + bytes(30), "offset size 4 and 0; 8 and 0 are fixed"),
    "beyond any file": (b"II+\0\x08\0\0\0" + b"\xff" * 8, "the file ends at byte 16"),
}


@pytest.mark.parametrize(("file", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_start_says_where(file: bytes, message: str) -> None:
    with pytest.raises(CorruptTiffError, match=message):
        serve(file)


TRANSFORMS: dict[str, tuple[dict[int, Any], tuple[float, ...]]] = {
    "scale": ({}, (10, 500000, -10, 4600000)),
    "point": ({34735: POINT}, (10, 499995, -10, 4600005)),
    "tie point inside": ({33922: (12, [2, 3, 0, 500000, 4600000, 0])}, (10, 499980, -10, 4600030)),
    "first of two tie points": (
        {33922: (12, [0, 0, 0, 1, 2, 0, 5, 5, 0, 900, 900, 0])},
        (10, 1, -10, 2),
    ),
    "negative scale y": ({33550: (12, [10, -10, 0])}, (10, 500000, -10, 4600000)),
    "negative scale x": ({33550: (12, [-10, 10, 0])}, (-10, 500000, -10, 4600000)),
    "scale wins over matrix": ({34264: (12, NORTH_UP)}, (10, 500000, -10, 4600000)),
    "matrix behind zero scale": ({33550: (12, [0, 0, 0]), 34264: (12, NORTH_UP)}, (100, 1000, -100, 2000)),
    "matrix": (only_matrix(NORTH_UP), (100, 1000, -100, 2000)),
    "matrix of points": (only_matrix(NORTH_UP, t34735=POINT), (100, 950, -100, 2050)),
    "south-up matrix": (only_matrix([*NORTH_UP[:5], 150, *NORTH_UP[6:]], t34735=POINT), (100, 950, 150, 1925)),
    "noise": (only_matrix([100, 1e-17, 0, 1000, -0.0, *NORTH_UP[5:]]), (100, 1000, -100, 2000)),
    "z row": (only_matrix([*NORTH_UP[:10], 2.5, 120, 0, 0, 0, 1]), (100, 1000, -100, 2000)),
    "whole numbers": ({33550: (3, [10, 20, 0])}, (10, 500000, -20, 4600000)),
    "single precision": ({33550: (11, [0.5, 0.25, 0])}, (0.5, 500000, -0.25, 4600000)),
}


@pytest.mark.parametrize(("changes", "expected"), TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("order", ["<", ">"])
def test_transform(changes: dict[int, Any], expected: tuple[float, ...], order: str) -> None:
    assert serve(craft(changes, order=order)).transform == expected


CODES: dict[str, tuple[Any, int | None]] = {
    "projected": (geo_keys((1024, 0, 1, 1), (3072, 0, 1, 32633)), 32633),
    "projected over geographic": (geo_keys((1024, 0, 1, 1), (2048, 0, 1, 4326), (3072, 0, 1, 32633)), 32633),
    "geographic": (geo_keys((1024, 0, 1, 2), (2048, 0, 1, 4258)), 4258),
    "vertical is ignored": (geo_keys((1024, 0, 1, 2), (2048, 0, 1, 4326), (4096, 0, 1, 3855)), 4326),
    "horizontal of compound": (geo_keys((1024, 0, 1, 2), (2048, 0, 1, 9518)), 4326),
    "keys in any order": (geo_keys((3072, 0, 1, 32633), (1024, 0, 1, 1)), 32633),
    "last of two": (geo_keys((1024, 0, 1, 1), (3072, 0, 1, 32631), (3072, 0, 1, 32633)), 32633),
    "no model type": (geo_keys((3072, 0, 1, 32633)), 32633),
    "user-defined model type": (geo_keys((1024, 0, 1, 32767), (3072, 0, 1, 32633)), 32633),
    "geocentric": (geo_keys((1024, 0, 1, 3), (2048, 0, 1, 4978)), 4978),
    "in Clarke's feet": (geo_keys((1024, 0, 1, 1), (3072, 0, 1, 2314), (3076, 0, 1, 9005)), 2314),
    "longs": ((4, [1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633]), 32633),
    "datum of EPSG": (geo_keys((1024, 0, 1, 2), (2048, 0, 1, 32767), (2050, 0, 1, 6326)), 4326),
    "projection of EPSG": (
        geo_keys((1024, 0, 1, 1), (2048, 0, 1, 4326), (3072, 0, 1, 32767), (3074, 0, 1, 16033)),
        32633,
    ),
    "user-defined": (geo_keys((1024, 0, 1, 1), (2048, 0, 1, 4326), (3072, 0, 1, 32767)), None),
    "unknown to EPSG": (geo_keys((1024, 0, 1, 1), (3072, 0, 1, 1999)), None),
    "private": (geo_keys((1024, 0, 1, 1), (3072, 0, 1, 54009)), None),
    "local": (geo_keys((1024, 0, 1, 0), (3072, 0, 1, 32633)), None),
    "wrong model type": (geo_keys((1024, 0, 1, 1), (2048, 0, 1, 4326)), None),
    "as a measure": (geo_keys((1024, 0, 1, 1), (3072, 34736, 1, 0)), None),
    "as text": (geo_keys((1024, 0, 1, 1), (3072, 34737, 5, 0)), None),
    "two values": (geo_keys((1024, 0, 1, 1), (3072, 0, 2, 32633)), None),
    "beyond the measures": (geo_keys((1024, 0, 1, 1), (3072, 0, 1, 32633), (3082, 34736, 1, 9)), None),
    "cut": ((3, [1, 1, 0, 3, 1024, 0, 1, 1, 3072, 0, 1, 32633]), None),
    "version 2": ((3, [2, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633]), None),
    "absent": (None, None),
}


@pytest.mark.parametrize(("directory", "expected"), CODES.values(), ids=CODES)
def test_epsg(directory: Any, expected: int | None) -> None:
    header = serve(craft({34735: directory, 34736: (12, [32633.0]), 34737: (2, b'32633|ID["EPSG",7030]|\0')}))
    assert header.epsg == expected
    assert header.crs == (f"EPSG:{expected}" if expected else None)


def esri(crs: str, **changes: str) -> str:
    """A citation as ArcGIS writes it."""
    text = pyproj.CRS(crs).to_wkt("WKT1_ESRI")
    for old, new in changes.items():
        text = text.replace(old, new)
    return f"ESRI PE String = {text}"


USER_DEFINED, PROJECTED, GEOGRAPHIC = (1024, 0, 1, 32767), (1024, 0, 1, 1), (1024, 0, 1, 2)
CITED: dict[str, tuple[str, int, list[tuple[int, int, int, int]], int | None, bool]] = {
    "of a projected CRS": (esri("EPSG:3035"), 3073, [USER_DEFINED], 3035, True),
    "of a geographic CRS": (esri("EPSG:4258"), 2049, [GEOGRAPHIC, (2048, 0, 1, 32767)], 4258, True),
    "of the whole": (esri("EPSG:3035"), 1026, [PROJECTED, (3072, 0, 1, 32767)], 3035, True),
    "of a projection without a code": (esri("ESRI:54009"), 3073, [PROJECTED, (3072, 0, 1, 54009)], None, True),
    "of a nameless datum": (esri("EPSG:3035", D_ETRS_1989="Unknown"), 3073, [USER_DEFINED], None, True),
    "beside a code": (esri("EPSG:3035"), 3073, [USER_DEFINED, (3072, 0, 1, 32633)], 32633, True),
    "of a compound CRS": (f"ESRI PE String = {pyproj.CRS('EPSG:9518').to_wkt('WKT1_GDAL')}", 1026, [USER_DEFINED], None,
                          False),
    "for people": (pyproj.CRS("EPSG:3035").to_wkt("WKT1_ESRI"), 3073, [USER_DEFINED], None, False),
    "that is no WKT": ("ESRI PE String = +proj=utm +zone=33", 3073, [USER_DEFINED], None, False),
    "that is cut": (esri("EPSG:3035")[:200], 3073, [USER_DEFINED], None, False),
    "that names a file": (
        f"{esri('EPSG:3035')[:-1]},EXTENSION[\"PROJ4\",\"+proj=longlat +nadgrids=/etc/passwd\"]]", 3073, [USER_DEFINED],
        None, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("text", "key", "keys", "epsg", "is_known"), CITED.values(), ids=CITED)
def test_citation_of_esri(
    text: str, key: int, keys: list[tuple[int, int, int, int]], epsg: int | None, is_known: bool
) -> None:
    ascii_params = f"{text}|\0".encode()
    directory = geo_keys(*keys, (key, 34737, len(ascii_params) - 1, 0))
    header = serve(craft({34735: directory, 34737: (2, ascii_params)}))
    assert header.epsg == epsg
    assert (header.crs is not None) == is_known


@pytest.mark.parametrize(
    "extension",
    [
        '"PROJ4","+proj=geos +h=35786023 +lon_0=-75 +ellps=GRS80 +nadgrids=/etc/passwd"', '"PROJ4","+init=file:3"',
        '"PROJ4","+proj=longlat +geoidgrids=1"', '"PROJ4","+proj=pipeline +step +proj=geos"', '"OTHER","x"',
        '"PROJ4","+proj=geos +towgs84=@x"',
    ],
)  # fmt: skip
def test_extensions_that_may_name_a_file_are_refused(extension: str) -> None:
    wkt = pyproj.CRS("+proj=geos +h=35786023 +lon_0=-75 +ellps=GRS80").to_wkt("WKT1_GDAL")
    text = f"ESRI PE String = {wkt[:-1]},EXTENSION[{extension}]]|\0".encode()
    header = serve(craft({34735: geo_keys(USER_DEFINED, (3073, 34737, len(text) - 1, 0)), 34737: (2, text)}))
    assert header.crs is None


SHIFTS: dict[str, tuple[tuple[float, ...], list[tuple[int, int, int, int]], bool]] = {
    "of three parameters": ((577.0, 90.0, 463.0), [(2048, 0, 1, 32767), (2056, 0, 1, 7004)], True),
    "of seven parameters": ((577.0, 90.0, 463.0, 5.0, 1.0, 2.0, 2.4), [(2048, 0, 1, 32767), (2056, 0, 1, 7004)], True),
    "of zeros": ((0.0, 0.0, 0.0), [(2048, 0, 1, 32767), (2056, 0, 1, 7004)], True),
    "beside the code of a CRS": ((577.0, 90.0, 463.0), [(2048, 0, 1, 4314)], False),
    "that is no number": ((577.0, math.nan, 463.0), [(2048, 0, 1, 32767), (2056, 0, 1, 7004)], False),
    "of too few numbers": ((577.0, 90.0), [(2048, 0, 1, 32767), (2056, 0, 1, 7004)], False),
}


@pytest.mark.parametrize(("shift", "keys", "is_kept"), SHIFTS.values(), ids=SHIFTS)
def test_shift_of_a_datum(shift: tuple[float, ...], keys: list[tuple[int, int, int, int]], is_kept: bool) -> None:
    axes = (6377397.155, 299.1528128)
    measures = [(2057, 34736, 1, 0), (2059, 34736, 1, 1)] if keys[0][3] == 32767 else []
    directory = geo_keys(GEOGRAPHIC, *keys, *measures, (2062, 34736, len(shift), 2))
    header = serve(craft({34735: directory, 34736: (12, [*axes, *shift])}))
    assert header.crs is not None
    assert header.crs.startswith("BOUNDCRS") == is_kept
    if is_kept:
        stated = "+proj=longlat +ellps=bessel +towgs84=" + ",".join(map(str, shift))
        expected, got = (
            pyproj.Transformer.from_crs(crs, "OGC:CRS84", always_xy=True).transform(10.0, 50.0)
            for crs in (stated, header.crs)
        )
        assert got == pytest.approx(expected, abs=1e-9)


def test_linear_unit_beside_a_code_wins() -> None:
    """California zone 4 is in metres; files that say US survey feet beside its code mean feet."""
    header = serve(craft({34735: geo_keys((1024, 0, 1, 1), (3072, 0, 1, 26944), (3076, 0, 1, 9003))}))
    assert header.epsg is None
    assert header.crs is not None
    assert "0.3048006" in header.crs
    assert serve(craft({34735: geo_keys((1024, 0, 1, 1), (3072, 0, 1, 2263), (3076, 0, 1, 9003))})).epsg == 2263


def test_geographic_crs_beside_a_code_wins() -> None:
    header = serve(craft({34735: geo_keys((1024, 0, 1, 1), (2048, 0, 1, 4258), (3072, 0, 1, 32633))}))
    assert header.epsg != 32633
    assert "WGS" not in (header.crs or "").partition("BASEGEOGCRS")[2].partition("CONVERSION")[0]


NODATA: dict[str, tuple[str | None, str, float | None]] = {
    "none": (None, "uint8", None),
    "empty": ("", "uint8", None),
    "integer": ("255", "uint8", 255),
    "blanks": ("  0 ", "uint16", 0),
    "trailing text": ("7abc", "uint8", 7),
    "real zero fraction": ("-32768.0", "int16", -32768),
    "exponent": ("1e3", "uint16", 1000),
    "out of range": ("-9999", "uint8", None),
    "fraction": ("-0.5", "int16", -0.5),
    "fraction of a larger number": ("254.9", "uint8", 254.9),
    "fraction beyond the type": ("255.5", "uint8", None),
    "nan on integer": ("nan", "int16", None),
    "garbage": ("n/a", "uint16", None),
    "nan": ("NaN", "float32", math.nan),
    "infinity": ("-inf", "float32", -math.inf),
    "windows nan": ("-1.#IND", "float64", math.nan),
    "windows nan with zeros": ("1.#QNAN0", "float32", math.nan),
    "windows signalling nan": ("1.#SNAN", "float32", math.nan),
    "windows nan on integer": ("1.#SNAN", "uint8", None),
    "negative nan": ("-nan", "float32", math.nan),
    "nan with payload": ("-nan(ind)", "float32", math.nan),
    "word like nan": ("nano", "float32", None),
    "plus infinity": ("+inf", "float32", math.inf),
    "java's infinity": ("-Infinity", "float64", -math.inf),
    "windows infinity": ("-1.#INF00", "float32", -math.inf),
    "word like infinity": ("info", "float32", None),
    "underscore": ("1_000", "int64", 1),
    "digits of another script": ("\u0663", "float32", None),
    "comma": ("-9999,5", "float32", -9999.5),
    "comma behind point": ("1.5,2", "float64", 1.5),
    "comma before point": ("1,25.5", "float64", 1.25),
    "rounds to float32": ("0.1", "float32", float(np.float32(0.1))),
    "short of float32": ("-3.40282346639e+38", "float32", -float(np.finfo("f4").max)),
    "a little over float32": ("-3.4028234664e+38", "float32", -float(np.finfo("f4").max)),
    "shortest text of the lowest float32": ("-3.4028235e+38", "float32", -float(np.finfo("f4").max)),
    "rounds to infinity": ("-3.4028236e+38", "float32", -math.inf),
    "double on float32": ("-1.7976931348623157e+308", "float32", -math.inf),
    "double": ("-1.7976931348623157e+308", "float64", -1.7976931348623157e308),
    "half exact": ("-32768", "float16", -32768),
    "half inexact": ("-9999", "float16", None),
    "half out of range": ("70000", "float16", None),
    "int64": ("-9223372036854775808", "int64", -(2.0**63)),
    "int64 inexact": ("9223372036854775807", "int64", None),
    "int64 digits only": ("-4.6e+18", "int64", -4),
    "uint64 negative": ("-1", "uint64", None),
    "endless digits": ("9" * 5000, "int64", None),
    "endless real": ("9" * 5000, "float64", math.inf),
}


@pytest.mark.parametrize(("text", "dtype", "expected"), NODATA.values(), ids=NODATA)
def test_nodata(text: str | None, dtype: str, expected: float | None) -> None:
    for order in "<>":
        value = parse_nodata(text, np.dtype(dtype).newbyteorder(order))
        if expected is not None and math.isnan(expected):
            assert value is not None
            assert math.isnan(value)
        else:
            assert value == expected
            assert value is None or type(value) is float


def test_nodata_text_is_kept_as_it_is() -> None:
    header = serve(craft({42113: (2, b" 7777 \0rest")}))
    assert (header.nodata, header.nodata_text) == (7777, " 7777 ")
    assert serve(craft({42113: (2, b"\0")})).nodata_text == ""
    assert serve(craft({42113: (3, [7])})).nodata_text is None


def test_predictor_without_a_codec_that_takes_one_has_no_effect() -> None:
    assert serve(craft({317: (3, [2])})).predictor == 1
    assert serve(craft({317: (3, [2]), 259: (3, [8])})).predictor == 2


def test_tile_tables_in_strip_tags() -> None:
    tables = {324: None, 325: None, 273: (4, [4096, 4608, 5120, 0]), 279: (3, [512, 512, 512, 0])}
    header = serve(craft(tables))
    assert header.tile_offsets.tolist() == [4096, 4608, 5120, 0]
    assert header.tile_byte_counts.tolist() == [512, 512, 512, 0]


def test_planes_one_after_another() -> None:
    header = serve(craft({277: (3, [2]), 258: (3, [16, 16]), 284: (3, [2]), 324: (4, range(8)), 325: (4, [512] * 8)}))
    assert header.band_tiles(0)[0].tolist() == [0, 1, 2, 3]
    assert header.band_tiles(1)[0].tolist() == [4, 5, 6, 7]
    for index in (-1, 2):
        with pytest.raises(UnsupportedTiffError, match=f"band index {index} does not exist: the file has 2 bands"):
            header.band_tiles(index)


def test_irrelevant_tags_of_any_type_are_skipped() -> None:
    header = serve(craft({34675: (7, bytes(100)), 65000: (99, b"abcdef"), 330: (13, [8]), 700: (1, b"<x/>")}))
    assert header.extra_samples == ()


def test_jpeg_tables_and_extra_samples() -> None:
    changes = {
        259: (3, [7]),
        258: (3, [8] * 4),
        277: (3, [4]),
        262: (3, [2]),
        338: (3, [2]),
        347: (7, b"\xff\xd8\xff\xd9"),
    }
    header = serve(craft(changes))
    assert (header.jpeg_tables, header.extra_samples, header.photometric) == (b"\xff\xd8\xff\xd9", (2,), 2)


def test_first_of_a_repeated_tag_counts() -> None:
    file = bytearray(craft({65000: (3, [64])}))
    at = file.index((65000).to_bytes(2, "little"))
    file[at : at + 2] = (256).to_bytes(2, "little")
    assert serve(bytes(file)).width == 32


def test_tables_are_read_only_and_keep_their_type() -> None:
    header = serve(craft({325: (3, [512] * 4)}, order=">"))
    assert (header.tile_offsets.dtype, header.tile_byte_counts.dtype) == (np.dtype(">u4"), np.dtype(">u2"))
    for table in (header.tile_offsets, header.tile_byte_counts):
        assert not table.flags.writeable


@pytest.mark.parametrize(("order", "name"), [("<", "float16"), (">", ">f2")])
def test_half_floats_keep_their_width(order: str, name: str) -> None:
    assert serve(craft({339: (3, [3])}, order=order)).dtype_name == name


def test_bytes_have_no_order() -> None:
    assert serve(craft({258: (3, [8])}, order=">")).dtype_name == "uint8"
