"""Schemes and hosts of hrefs, hrefs in messages, and rewrites of prefixes.

:func:`redact` is for messages and logs of ours, :func:`redacted_texts` for those of others. What of an href is stored
and published is decided in :mod:`~rasteret_assets.storage.addresses`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

# Before the host stands who asks, except in Azure's own schemes (abfss://container@account...): there it is the place.
_USER = re.compile(r"(?i)((?!abfss?:|wasbs?:)[a-z][a-z0-9+.-]*://)[^/?#]*@")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_AUTHORITY = re.compile(_SCHEME.pattern + r"[^/?#]*")

# The same within a text, in Arrow's dialect, which looks neither ahead nor back: user information before the host, and
# the query up to the next blank or quote. A closing colon or bracket belongs to the sentence.
_USER_IN_TEXT = r"(://)[^\s/@?#]*@"
_QUERY_IN_TEXT = r"""([A-Za-z][A-Za-z0-9+.-]*://[^\s?#"'<>]*)[?#][^\s"'<>]*?([:;,.)\]]*(?:\s|["'<>]|$))"""


def scheme(href: str) -> str:
    """Lower-case scheme of an href; ``""`` for a bare path.

    A Windows drive letter would need two slashes after its colon to be taken for a scheme, so it is not.
    """
    match = _SCHEME.match(href)
    return match.group(1).lower() if match else ""


def host(href: str) -> str:
    """Host (and port) an href leads to; ``""`` for local files."""
    match = _AUTHORITY.match(href)
    return _host(match.group()) if match else ""


# A fetch asks this of every file, and files lie on few hosts.
@lru_cache(maxsize=1024)
def _host(base: str) -> str:
    kind, _, authority = base.partition("://")
    return "" if kind.lower() == "file" else authority.rpartition("@")[2].lower()


def redact(href: str) -> str:
    """``href`` without query string, fragment and user information: fit for an error, a log line or a page."""
    if scheme(href) in {"", "file"}:
        return href
    # No parser of URLs: what is told of may not be one.
    return re.split("[?#]", without_user(href), maxsplit=1)[0]


def redacted_hrefs(hrefs: pa.Array) -> pa.Array:
    """:func:`redact` over a string array; only rows that may need it are walked."""
    suspect = pc.fill_null(pc.match_substring_regex(hrefs, "[?#@]"), fill_value=False)
    replaced = pa.array([redact(href) for href in hrefs.filter(suspect).to_pylist()], hrefs.type)
    return pc.replace_with_mask(hrefs, suspect, replaced)


def redacted_texts(texts: pa.Array) -> pa.Array:
    """Texts that may tell of URLs, such as errors, without what would grant access."""
    return pc.replace_substring_regex(pc.replace_substring_regex(texts, _USER_IN_TEXT, r"\1"), _QUERY_IN_TEXT, r"\1\2")


def redact_text(text: str) -> str:
    """Return a text that is an address, or may tell of some, without what would grant access."""
    if "://" not in text:
        return text
    made: str = redacted_texts(pa.array([text], pa.string()))[0].as_py()
    # An address may hold blanks and quotes, at which those in a sentence end.
    return redact(made) if scheme(made) else made


def without_user(href: str) -> str:
    """Return ``href`` without the user and password before its host."""
    match = _USER.match(href)
    return match.group(1) + href[match.end() :] if match else href


def rewrite_hrefs(hrefs: pa.Array, patterns: Mapping[str, str]) -> pa.Array:
    """Replace the prefix of every href by the longest of ``patterns`` it starts with.

    Args:
        hrefs: string array.
        patterns: ``{prefix: replacement}``.

    Returns:
        A string array of the same length; an href is rewritten at most once.
    """
    result = hrefs
    done = pc.is_null(hrefs)
    for prefix in sorted(patterns, key=len, reverse=True):
        matches = pc.and_(pc.fill_null(pc.starts_with(hrefs, prefix), fill_value=False), pc.invert(done))
        if pc.any(matches).as_py():
            tail = pc.utf8_slice_codeunits(hrefs, len(prefix))
            swapped = pc.binary_join_element_wise(
                pa.scalar(patterns[prefix], hrefs.type), tail, pa.scalar("", hrefs.type)
            )
            result = pc.if_else(matches, swapped, result)
            done = pc.or_(done, matches)
    return result
