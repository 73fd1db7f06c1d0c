"""What an href is: its scheme, its secrets, its rewrites.

Signed URLs carry credentials in their query string, others a user and a password before the host. :func:`redact` is for
messages and logs, and :func:`redacted_texts` for those of others; :func:`unsigned` is for what is published: of a query
it drops only the parameters that sign, because the others may be part of a file's address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

# Query parameters that grant access, in lower case. AWS query authentication V4 (by prefix) and V2, Google signed URLs,
# CloudFront, the fields of an Azure SAS, and the plain names services use for bearer tokens.
_SIGNING_PREFIXES = ("x-amz-", "x-goog-")
_SIGNING_NAMES = frozenset({
    "awsaccesskeyid", "googleaccessid", "signature", "expires", "key-pair-id", "policy",
    "sv", "ss", "srt", "sp", "se", "st", "sr", "si", "sip", "spr", "sig", "skoid", "sktid", "skt", "ske", "sks", "skv",
    "saoid", "suoid", "scid", "sdd",
    "token", "access_token", "api_key", "apikey", "subscription-key",
})  # fmt: skip

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
    return re.split("[?#]", _without_user(href), maxsplit=1)[0]


def redacted_hrefs(hrefs: pa.Array) -> pa.Array:
    """:func:`redact` over a string array; only rows that may need it are walked."""
    suspect = pc.fill_null(pc.match_substring_regex(hrefs, "[?#@]"), fill_value=False)
    replaced = pa.array([redact(href) for href in hrefs.filter(suspect).to_pylist()], hrefs.type)
    return pc.replace_with_mask(hrefs, suspect, replaced)


def redacted_texts(texts: pa.Array) -> pa.Array:
    """Texts that may tell of URLs, such as errors, without what would grant access."""
    return pc.replace_substring_regex(pc.replace_substring_regex(texts, _USER_IN_TEXT, r"\1"), _QUERY_IN_TEXT, r"\1\2")


def unsigned(href: str) -> str:
    """``href`` without user information and the query parameters that sign it; everything else stays as written."""
    if scheme(href) in {"", "file"}:
        return href
    # What looks like a query in a fragment may be the end of a path with a sign of number in it.
    return "#".join(map(_without_signature, _without_user(href).split("#")))


def _without_signature(address: str) -> str:
    base, _, query = address.partition("?")
    kept = [item for item in query.split("&") if not _signs(item.partition("=")[0])]
    return base + ("?" + "&".join(kept) if any(kept) else "")


def _without_user(href: str) -> str:
    match = _USER.match(href)
    return match.group(1) + href[match.end() :] if match else href


def _signs(parameter: str) -> bool:
    name = parameter.lower()
    return name in _SIGNING_NAMES or name.startswith(_SIGNING_PREFIXES)


def unsigned_hrefs(hrefs: pa.Array) -> pa.Array:
    """:func:`unsigned` over a string array; rows with neither a query nor user information are not touched."""
    suspect = pc.or_(pc.match_substring(hrefs, "?"), pc.match_substring(hrefs, "@")).fill_null(fill_value=False)
    if not pc.any(suspect).as_py():
        return hrefs
    # Only these rows are walked: parsing a query has no Arrow kernel.
    replaced = pa.array([unsigned(href) for href in hrefs.filter(suspect).to_pylist()], hrefs.type)
    return pc.replace_with_mask(hrefs, suspect, replaced)


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
