"""Secrets in URLs, and rewriting them."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasteret_assets.storage.urls import host, redact, rewrite_hrefs, scheme, unsigned, unsigned_hrefs

SAS = "sv=2023-11-03&st=2024-01-01T00%3A00%3A00Z&se=2024-01-02T00%3A00%3A00Z&sr=c&sp=rl&sig=abc%3D"
AWS = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA&X-Amz-Date=x&X-Amz-Expires=9&X-Amz-Signature=f00"


@pytest.mark.parametrize(
    "query", [SAS, AWS, "AWSAccessKeyId=A&Signature=b&Expires=1", "token=1&token=2", "Key-Pair-Id=k"]
)
def test_signatures_are_dropped_and_the_rest_of_the_query_kept(query: str) -> None:
    assert unsigned(f"https://h/a.tif?{query}") == "https://h/a.tif"
    assert unsigned(f"https://h/a.tif?scene=7&{query}&band=2") == "https://h/a.tif?scene=7&band=2"
    assert unsigned(f"https://h/a.tif?{query}#part") == "https://h/a.tif#part"


@pytest.mark.parametrize(
    "href", ["/data/what?sig=1.tif", "file:///data/a.tif?token=x", "s3://b/k.tif", "https://h/a?x=1"]
)
def test_what_signs_nothing_stays_as_written(href: str) -> None:
    assert unsigned(href) == href


def test_messages_show_neither_query_nor_password() -> None:
    assert redact(f"https://user:secret@host:8080/a%20b.tif?{SAS}#x") == "https://host:8080/a%20b.tif"
    assert redact(f"abfss://container@account/a.tif?{SAS}") == "abfss://container@account/a.tif"
    assert host("https://user:secret@Host:8080/a.tif") == "host:8080"
    assert host("/a/b.tif") == ""


@given(st.text("ahtp:/[]@?#%&=.\\\x00é ", max_size=12).map("https://{}".format))
def test_what_is_no_url_can_be_told_of_too(href: str) -> None:
    shown = redact(href)
    assert not {"?", "#", "@"} & set(shown.removeprefix("https://").partition("/")[0])
    assert unsigned(unsigned(href)) == unsigned(href)
    assert host(href) == host(shown)


@pytest.mark.parametrize(("href", "expected"), [("HTTP://x/y", "http"), ("s3://b/k", "s3"), ("/a", ""), ("C:\\a", "")])
def test_schemes(href: str, expected: str) -> None:
    assert scheme(href) == expected


def test_columns_are_unsigned_row_by_row() -> None:
    column = pa.array([f"https://h/a.tif?{SAS}", None, "https://h/b.tif", "https://h/c.tif?x=1"])
    assert unsigned_hrefs(column).to_pylist() == ["https://h/a.tif", None, "https://h/b.tif", "https://h/c.tif?x=1"]


def test_the_longest_prefix_wins_once() -> None:
    hrefs = pa.array(["s3://a/b/c.tif", "s3://a/x.tif", "https://z/s3://a/", None, "s3://a/b/s3://a/b/d"])
    patterns = {"s3://a/": "https://short/", "s3://a/b/": "s3://a/", "s3://": "never://"}
    assert rewrite_hrefs(hrefs, patterns).to_pylist() == [
        "s3://a/c.tif", "https://short/x.tif", "https://z/s3://a/", None, "s3://a/s3://a/b/d"
    ]  # fmt: skip


@given(
    st.lists(st.one_of(st.none(), st.text("ab/é:", max_size=8)), min_size=1, max_size=8),
    st.dictionaries(st.text("ab/é:", min_size=1, max_size=4), st.text("xyé", max_size=3), max_size=4),
)
def test_rewriting_equals_doing_it_row_by_row(hrefs: list[str | None], patterns: dict[str, str]) -> None:
    def one(href: str | None) -> str | None:
        for prefix in sorted(patterns, key=len, reverse=True):
            if href is not None and href.startswith(prefix):
                return patterns[prefix] + href[len(prefix) :]
        return href

    assert rewrite_hrefs(pa.array(hrefs, pa.string()), patterns).to_pylist() == [one(href) for href in hrefs]
