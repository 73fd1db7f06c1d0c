"""Predictors undo what encoders did, by property; ``test_get_numpy`` compares real tiles with rasterio."""

from __future__ import annotations

import imagecodecs
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rasteret_assets.collection.pixels.codecs import undo_differences, undo_float_predictor

shapes = st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 4))


@given(st.data(), shapes, st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"]))
def test_differences_of_integers(data, shape, dtype):
    samples = data.draw(hnp.arrays(dtype, shape))
    stored = np.diff(samples.view(f"u{samples.itemsize}"), axis=1, prepend=np.zeros((), f"u{samples.itemsize}"))
    np.testing.assert_array_equal(undo_differences(stored.view(dtype)), samples)


@given(st.data(), shapes, st.sampled_from(["f4", "f8"]))
def test_differences_of_floats_are_of_their_bits(data, shape, dtype):
    bits = data.draw(hnp.arrays(f"u{dtype[1]}", shape))
    stored = np.diff(bits, axis=1, prepend=bits.dtype.type(0)).view(dtype)
    np.testing.assert_array_equal(undo_differences(stored).view(bits.dtype), bits)


@given(st.data(), shapes, st.sampled_from(["f2", "f4", "f8"]))
def test_float_predictor(data, shape, dtype):
    bits = data.draw(hnp.arrays(f"u{dtype[1]}", shape))
    stored = imagecodecs.floatpred_encode(bits.view(dtype), axis=-2)
    got = undo_float_predictor(np.frombuffer(stored.tobytes(), np.uint8), shape, int(dtype[1]))
    assert got.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(got.view(bits.dtype), bits)
