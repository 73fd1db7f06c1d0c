"""Secrets in URLs, and rewrites of URLs."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasteret_assets.secrets import redact
from rasteret_assets.storage.addresses.urls import host, rewrite_hrefs, scheme

SAS = "sv=2023-11-03&st=2024-01-01T00%3A00%3A00Z&se=2024-01-02T00%3A00%3A00Z&sr=c&sp=rl&sig=abc%3D"


def test_messages_show_neither_query_nor_password() -> None:
    assert redact(f"https://user:secret@host:8080/a%20b.tif?{SAS}#x") == "https://host:8080/a%20b.tif"
    assert redact(f"abfss://container@account/a.tif?{SAS}") == "abfss://container@account/a.tif"
    assert host("https://user:secret@Host:8080/a.tif") == "host:8080"
    assert host("/a/b.tif") == ""


@given(st.text("ahtp:/[]@?#%&=.\\\x00é ", max_size=12).map("https://{}".format))
def test_texts_that_are_not_urls_are_shown_too(href: str) -> None:
    shown = redact(href)
    assert not {"?", "#", "@"} & set(shown.removeprefix("https://").partition("/")[0])
    assert host(href) == host(shown)


@pytest.mark.parametrize(("href", "expected"), [("HTTP://x/y", "http"), ("s3://b/k", "s3"), ("/a", ""), ("C:\\a", "")])
def test_schemes(href: str, expected: str) -> None:
    assert scheme(href) == expected


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
