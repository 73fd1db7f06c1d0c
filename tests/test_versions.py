"""What counts as the same: files by what their store tells, expressions and specifications by what they say."""

from __future__ import annotations

import datetime as dt
import math
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from rasteret_assets.spec import CloudConfig, CollectionSpec
from rasteret_assets.versions import arrow_version, file_version

S = 10**9
FACTS = {"size": 5, "times_ns": (100 * S + 1,), "tag": None, "asked_ns": 200 * S}


def version(store: str = "local", path: str = "/a", **facts: object) -> str:
    return file_version(store, path, **{**FACTS, **facts}).version


@pytest.mark.parametrize(
    "facts",
    [
        {"store": "s3"}, {"path": "/b"}, {"size": 6}, {"size": None}, {"tag": "x"},
        {"times_ns": (100 * S + 2,)}, {"times_ns": (100 * S + 1, 3)},
    ],
    ids=str,
)  # fmt: skip
def test_every_fact_of_a_file_counts(facts: dict[str, object]) -> None:
    assert version(**facts) != version()
    assert version(asked_ns=201 * S) == version()


@pytest.mark.parametrize(
    ("store", "facts", "is_reliable"),
    [
        ("local", {"times_ns": (200 * S - 5_000_001,)}, False),
        ("local", {"times_ns": (200 * S - 50_000_001,)}, True),
        ("local", {"times_ns": (199 * S,)}, False),  # a clock of seconds
        ("local", {"times_ns": (201 * S + 1,)}, False),  # not yet
        ("s3", {"times_ns": (199 * S,)}, False),
        ("s3", {"times_ns": (197 * S,)}, True),
        ("s3", {"times_ns": (200 * S,), "tag": '"abc"'}, True),
        ("memory", {"times_ns": (200 * S - 2_001_000,)}, True),
        ("http", {"times_ns": ()}, False),
    ],
)
def test_a_file_that_may_be_written_again_unseen_never_has_the_same_version(
    store: str, facts: dict[str, object], *, is_reliable: bool
) -> None:
    now, later = (file_version(store, "/a", **{**FACTS, **facts, "asked_ns": when}) for when in (200 * S, 200 * S + 9))
    assert now.is_reliable is is_reliable
    assert (now.version == later.version) is is_reliable


def test_an_arrow_object_is_its_schema_and_its_rows() -> None:
    schema = pa.schema([("a", pa.int8())])
    versions = {
        arrow_version(schema, "x"), arrow_version(schema, "y"), arrow_version(schema.with_metadata({"k": "v"}), "x"),
        arrow_version(pa.schema([("a", pa.int16())]), "x"),
    }  # fmt: skip
    assert len(versions) == 4


def hash_of(filter_expr: object, **values: object) -> str:
    return CollectionSpec.of(path="t", filter_expr=filter_expr, **values).content_hash


def test_a_filter_counts_in_full() -> None:
    names = [f"scene-{number}" for number in range(60)]
    other = [*names[:30], "another", *names[31:]]
    assert hash_of(pc.field("id").isin(names)) != hash_of(pc.field("id").isin(other))
    assert hash_of([("id", "in", names)]) != hash_of([("id", "in", other)])
    assert hash_of([("id", "in", names)]) == hash_of([("id", "in", set(names))]) == hash_of(pc.field("id").isin(names))
    assert hash_of(pc.field("id").isin(names)) != hash_of(~pc.field("id").isin(names))


@pytest.mark.parametrize(
    "values",
    [
        [math.nan, math.inf, -math.inf, 0.0],
        [1, True, "1", 1.0, b"1"],
        [dt.date(2024, 1, 1), dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, tzinfo=dt.UTC), "2024-01-01"],  # noqa: DTZ001
    ],
    ids=str,
)
def test_values_of_filters_that_differ_differ(values: list[object]) -> None:
    assert len({hash_of([("x", "==", value)]) for value in values}) == len(values)
    assert len({hash_of(pc.field("x") == value) for value in values}) == len(values)


def test_a_set_is_the_same_in_every_process() -> None:
    code = (
        "import rasteret_assets as ra, pyarrow.compute as pc; values = set('abcdef'); "
        "print(*[ra.CollectionSpec.of(path='t', filter_expr=one).content_hash "
        "for one in ([('p', 'in', values)], pc.field('p').isin(values))])"
    )
    run = [sys.executable, "-c", code]
    printed = [
        subprocess.run(run, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True, text=True)
        for seed in ("1", "2")
    ]
    assert printed[0].stdout == printed[1].stdout


def test_a_registered_provider_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CloudConfig, "_registry", {})
    without = hash_of(None, data_source="mirror")
    hashes = {without}
    for host in ("one", "two"):
        CloudConfig.register("mirror", CloudConfig("aws", url_patterns={"s3://b/": f"https://{host}.example/"}))
        hashes.add(hash_of(None, data_source="mirror"))
    assert len(hashes) == 3
    assert hash_of(None, data_source="another") != without
