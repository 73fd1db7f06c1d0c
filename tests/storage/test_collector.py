"""A fetch leaves the garbage collector as it found it."""

from __future__ import annotations

import gc

import pytest

from rasteret_assets.storage.process.collector import fewer_collections


@pytest.mark.parametrize("usual", [(700, 10, 10), (0, 10, 10), (90_000, 5, 5)])
def test_thresholds_come_back_after_the_last_user(usual: tuple[int, int, int]) -> None:
    before = gc.get_threshold()
    gc.set_threshold(*usual)
    try:
        one, other = fewer_collections(), fewer_collections()
        one.__enter__()
        other.__enter__()
        assert gc.get_threshold()[0] == (max(usual[0], 50_000) if usual[0] else 0)
        one.__exit__(None, None, None)
        assert gc.get_threshold()[0] >= usual[0]
        with fewer_collections(200_000):
            assert gc.get_threshold()[0] == (200_000 if usual[0] else 0)
        other.__exit__(None, None, None)
        assert gc.get_threshold() == usual
    finally:
        gc.set_threshold(*before)
