"""Find schemes and hosts of hrefs, and rewrite prefixes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.secrets import without_user
from rasteret_assets.storage.addresses.gdal import plain_addresses

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_AUTHORITY = re.compile(_SCHEME.pattern + r"[^/?#]*")


def scheme(href: str) -> str:
    """Return the lower-case scheme of an href; ``""`` for a bare path.

    A Windows drive letter is not taken for a scheme, because two slashes have to follow the colon.
    """
    match = _SCHEME.match(href)
    return match.group(1).lower() if match else ""


def host(href: str) -> str:
    """Return the host (and port) of an href; ``""`` for local files."""
    # Without the user first, because a password that nobody escaped may hold letters that otherwise end a host.
    match = _AUTHORITY.match(without_user(href))
    return _host(match.group()) if match else ""


# Cached, because a fetch asks for the host of every file, and files lie on few hosts.
@lru_cache(maxsize=1024)
def _host(base: str) -> str:
    kind, _, authority = base.partition("://")
    return "" if kind.lower() == "file" else authority.rpartition("@")[2].lower()


def rewrite_hrefs(hrefs: pa.Array, patterns: Mapping[str, str]) -> pa.Array:
    """Replace the prefix of every href, by the longest of ``patterns`` that the href starts with.

    Args:
        hrefs: string array.
        patterns: ``{prefix: replacement}``.

    Returns:
        A string array of the same length. An href is rewritten at most once. An href in GDAL's spelling becomes the
        address that it stands for, which is rewritten like any other.
    """
    rewritten = _rewritten(hrefs, patterns)
    plain = plain_addresses(rewritten)
    return (
        rewritten if plain is rewritten else pc.if_else(pc.equal(plain, rewritten), plain, _rewritten(plain, patterns))
    )


def _rewritten(hrefs: pa.Array, patterns: Mapping[str, str]) -> pa.Array:
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
