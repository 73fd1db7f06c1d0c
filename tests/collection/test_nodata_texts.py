"""Nodata in the spellings of many writers masks the pixels that rasterio masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rasteret_assets.collection import as_collection
from rasteret_assets.tiff.nodata import parse_nodata

from .support import UTM32, CountingBackend, record, records_table
from .test_get_numpy import box

FLOATS, INTEGERS = ["float32", "float64"], ["uint8", "int8", "int16", "uint16", "int32", "uint32"]
SPECIAL = [
    "nan", "NaN", " nan", "+nan", "1.#QNAN", "-1.#QNAN", "1.#QNAN0", "1.#SNAN", "1.#SNAN0", "-1.#IND", "-1.#IND00",
    "inf", "Inf", "INF", "+inf", "-inf", "Infinity", "+Infinity", "-Infinity", "1.#INF", "-1.#INF", "1.#INF00",
    "-1.#INF00",
]  # fmt: skip
LARGE = [
    "-3.4028235e+38", "3.4028235E38", "-3.40282346638528859e+38", "-3.4028234663852886e+38", "-3.402823e+38",
    "-3.40282347e+38", "-3.402823466E+38", "-3.40282e+38", "-3.4028236e+38", "-3.4028e38", "-3.4e+38", "1e39", "-1e39",
    "-1.7976931348623157e+308", "-1e400",
]  # fmt: skip
NUMBERS = [
    "0", "-0", "-0.0", "5", "+5", "5.", "5.0", "5,0", "5,5", ".5", "0.5", "5.5", "1.5,3", "-0.4", "0.1", "255", "256",
    "255.4", "255.5", "254.99", "-1", "-128", "1e2", "1E2", "1e", "5abc", "12;13", "-9999",
    "-9999.0", "-32768", "-32768.5", "32767", "32768", "65535", "65535.5", "65536", "-2147483648", "2147483647",
    "2147483648", "4294967295", "4294967295.5", "4294967296", "1e10", "1e-46", "1_000", "1,000.5", "  7  ", "+-5",
    "16777217",
]  # fmt: skip


def pixels(dtype: str) -> np.ndarray:
    """Return 64 x 64 samples that nodata texts may mean."""
    kind = np.dtype(dtype)
    limits = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind)
    values = [0, 1, 2, 4, 5, 6, 7, 100, 127, 128, 254, 255, 1000, -1, -5, -128, -9999, -32768, 32767, 65535]
    values += [2**31 - 1, -(2**31), 2**24] if kind.kind != "f" else []
    found = [kind.type(value) for value in values if limits.min <= value <= limits.max]
    found += [kind.type(limits.min), kind.type(limits.max)]
    if kind.kind == "f":
        found += [kind.type(value) for value in (np.nan, np.inf, -np.inf, 0.5, 5.5, 0.1, -0.4, 255.5)]
    return np.resize(np.array(found, kind), (64, 64))


def write(path: Path, text: str, dtype: str) -> Path:
    geo = [
        (33550, 12, 3, (10.0, 10.0, 0.0), True),
        (33922, 12, 6, (0, 0, 0, 500_000.0, 5_000_000.0, 0), True),
        (34735, 3, 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632), True),
        (42113, 2, len(text) + 1, text, True),
    ]
    data = pixels(dtype)
    tifffile.imwrite(path, data, tile=(64, 64), photometric="minisblack", metadata=None, extratags=geo)
    return path


def mask(path: Path, **header: object) -> np.ndarray:
    """Return the mask of our reader for a nodata value and text of the index."""
    row = record("r", {"B": (path, 0)})
    row["B_metadata"] |= header
    scene = as_collection(records_table([row]))
    got = scene.get_numpy(box(0, 0, 64, 64), "B", geometry_crs=UTM32, backend=CountingBackend(), masked=True)
    return np.ma.getmaskarray(got)[0]


def expected_mask(path: Path) -> np.ndarray:
    with rasterio.open(path) as source:
        return np.ma.getmaskarray(source.read(1, masked=True))


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
def test_masks_are_those_of_rasterio(tmp_path, dtype):
    for text in SPECIAL + NUMBERS + LARGE:
        path = write(tmp_path / "a.tif", text, dtype)
        expected = expected_mask(path)
        got = mask(path, nodata=parse_nodata(text, np.dtype(dtype)), nodata_text=text)
        np.testing.assert_array_equal(got, expected, err_msg=f"{text!r} on {dtype}")


@pytest.mark.parametrize("text", ["-3.4028235e+38", "Infinity", "1.#SNAN", "+inf"])
def test_headers_of_an_earlier_parser_without_a_value(tmp_path, text):
    path = write(tmp_path / "a.tif", text, "float32")
    np.testing.assert_array_equal(mask(path, nodata=None, nodata_text=text), expected_mask(path))


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 5.5), ("int16", -0.4), ("uint8", 255.5), ("uint8", np.nan)])
def test_values_with_a_fraction_that_other_indexes_publish(tmp_path, dtype, nodata):
    path = write(tmp_path / "a.tif", str(nodata), dtype)
    np.testing.assert_array_equal(mask(path, nodata=nodata, nodata_text=None), expected_mask(path))


@pytest.mark.parametrize("text", ["-nan", "-NaN", "nan(ind)", "-nan(ind)", "nan(snan)", "NAN", "1.#IND"])
def test_nan_as_the_c_libraries_print_it(tmp_path, text):
    """GDAL before 3.11 reads some of these as 0, which writers do not mean."""
    path = write(tmp_path / "a.tif", text, "float32")
    got = mask(path, nodata=parse_nodata(text, np.dtype("float32")), nodata_text=text)
    np.testing.assert_array_equal(got, np.isnan(pixels("float32")))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    number=st.floats(allow_nan=False, width=32) | st.floats(-300, 300) | st.integers(-70_000, 70_000),
    form=st.sampled_from(["{}", "{!r}", "{:.8g}", "{:.9e}", "{:.17g}", "{:f}", "{:g}"]),
    dtype=st.sampled_from(FLOATS + INTEGERS),
)
@example(number=float(np.finfo("f4").min), form="{:.8g}", dtype="float32")
def test_numbers_in_any_form(tmp_path, number, form, dtype):
    text = form.format(number)
    path = write(tmp_path / "a.tif", text, dtype)
    with rasterio.open(path) as source:
        nodata = source.nodata
    got = parse_nodata(text, np.dtype(dtype))
    is_integer = np.dtype(dtype).kind != "f"
    is_beyond = is_integer and nodata is not None and not np.iinfo(dtype).min <= nodata <= np.iinfo(dtype).max
    assert got == (None if is_beyond else nodata)  # rasterio keeps some that no pixel can have
    if is_integer:
        # GDAL compares pixels with the value without its fraction.
        np.testing.assert_array_equal(mask(path, nodata=got, nodata_text=text), expected_mask(path))
