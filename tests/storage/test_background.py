"""Items made in the background come in the same order, and an error comes in the same place."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from rasteret_assets.storage.process.background import in_background


def numbers(made: list[int], count: int, *, fail_at: int | None = None) -> Iterator[int]:
    for number in range(count):
        if number == fail_at:
            raise ValueError(f"no {number}")
        made.append(number)
        yield number


@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_items_come_in_order(count: int) -> None:
    assert list(in_background(numbers([], count))) == list(range(count))


def test_an_error_comes_after_the_items_before_it() -> None:
    came: list[int] = []
    with pytest.raises(ValueError, match="no 3"):
        came.extend(in_background(numbers([], 5, fail_at=3)))
    assert came == [0, 1, 2]


def test_at_most_one_item_waits() -> None:
    made: list[int] = []
    for number in in_background(numbers(made, 50)):
        assert len(made) <= number + 2


def test_a_consumer_that_stops_early_leaves_no_thread() -> None:
    made: list[int] = []
    items = in_background(numbers(made, 50))
    assert next(items) == 0
    items.close()
    assert len(made) <= 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("background")]
