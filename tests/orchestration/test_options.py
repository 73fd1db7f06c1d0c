"""Declarations accept only values that Dagster accepts, because else a whole code location would not load."""

from __future__ import annotations

from dagster._utils.schedules import is_valid_cron_schedule
from dagster._utils.tags import normalize_tags
from hypothesis import given
from hypothesis import strategies as st

from rasteret_assets.errors import SpecError
from rasteret_assets.spec import CollectionSpec

_NUMBERS = st.integers(0, 61).map(str)
_NAMES = st.sampled_from(["jan", "DEC", "sun", "sat", "x", ""])
_ENDS = st.one_of(_NUMBERS, _NAMES)
_PARTS = st.one_of(st.just("*"), _NUMBERS, _ENDS, st.builds("{}-{}".format, _ENDS, _ENDS))
_STEPPED = st.one_of(_PARTS, st.builds("{}/{}".format, _PARTS, _NUMBERS))
_FIELDS = st.lists(_STEPPED, min_size=1, max_size=2).map(",".join)


@given(st.lists(_FIELDS, min_size=4, max_size=6).map(" ".join))
def test_a_time_that_is_accepted_is_one_for_dagster(cron: str) -> None:
    try:
        CollectionSpec.of(path="x", graph={"refresh_cron": cron})
    except SpecError:
        return
    assert is_valid_cron_schedule(cron)


@given(st.dictionaries(st.text("ab/.é \n", max_size=3), st.text("ab-é!\n", max_size=3), max_size=2))
def test_tags_that_are_accepted_are_tags_for_dagster(tags: dict[str, str]) -> None:
    try:
        CollectionSpec.of(path="x", graph={"tags": tags})
    except SpecError:
        return
    assert normalize_tags(tags, strict=True) == tags
