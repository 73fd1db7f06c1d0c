"""GDAL's spellings of addresses (``/vsicurl/https://...``, ``/vsis3/bucket/key``), to and from plain addresses.

A spelling that stands for something else than a whole file is refused by name, with what to write instead.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.compute as pc

#: Pattern (RE2) of the beginning of an address in one of GDAL's spellings.
GDAL_ADDRESS: Final = r"(?i)^\s*(/vsi[a-z0-9_]+[/?]|gtiff_dir:|gtiff_raw:|(zip|gzip|tar)\+[a-z0-9]+://)"

_GDAL: Final = re.compile(GDAL_ADDRESS)
_CURL: Final = re.compile(r"(?i)/vsicurl(?:_streaming)?/((?:https?|ftp)://.+)", re.DOTALL)
_CURL_OPTIONS: Final = re.compile(r"(?i)/vsicurl(?:_streaming)?\?(.+)", re.DOTALL)
_BUCKET: Final = re.compile(r"(?i)/vsi(s3|gs)(?:_streaming)?/([^/]+/.+)", re.DOTALL)
_FIRST_IMAGE: Final = re.compile(r"(?i)GTIFF_DIR:1:(.+)", re.DOTALL)
#: Patterns (RE2) of the beginning of a plain address, and what GDAL writes in its place.
_PREFIXES: Final = (
    (r"^(?i:https?)://", r"/vsicurl/\0"),
    (r"^(?i:s3a?)://", "/vsis3/"),
    (r"^(?i:gs|gcs)://", "/vsigs/"),
    # Without the account of abfss://container@account.dfs.core.windows.net/key, which GDAL's configuration names.
    (r"^(?i:abfss?)://([^/@]+)@[^/]*/", r"/vsiadls/\1/"),
    (r"^(?i:az|azure|abfss?)://", "/vsiaz/"),
)
# Options of /vsicurl? that change how GDAL asks for a file, but not which bytes it reads.
_HARMLESS: Final = frozenset({"max_retry", "retry_delay", "use_head", "list_dir", "empty_dir"})

_REMEDIES: Final = (
    (r"/vsiaz|/vsiadls", "write az://container/key, or the https:// address of the blob"),
    (r"/vsioss|/vsiswift|/vsiwebhdfs|/vsihdfs", "write the https:// address of the file"),
    (r"/vsi(zip|gzip|tar|7z|rar)|(zip|gzip|tar)\+", "a file in an archive cannot be read in parts: unpack it"),
    (r"/vsicurl", "write the https:// address that it holds, without GDAL's options"),
    (r"GTIFF_DIR", "only the first image of a file is read: write the address of the file"),
    (r"GTIFF_RAW", "write the address of the file"),
)


def plain_address(href: str) -> str:
    """Return the plain address that GDAL's spelling stands for; other addresses, and refused ones, as they are."""
    text = href.strip()
    if _GDAL.match(text) is None:
        return href
    if found := _FIRST_IMAGE.fullmatch(text):
        return plain_address(found[1])
    if found := _CURL.fullmatch(text):
        return found[1]
    if found := _BUCKET.fullmatch(text):
        return f"{found[1].lower()}://{found[2]}"
    if found := _CURL_OPTIONS.fullmatch(text):
        options = dict(option.partition("=")[::2] for option in found[1].split("&"))
        url = options.pop("url", "")
        if re.match(r"(?i)https?(:|%3a)", url) and all(name.lower() in _HARMLESS for name in options):
            return unquote(url) if "%3a" in url.lower() else url
    return href


def remedy_for_address(href: str) -> str | None:
    """Return what to write instead of an address in GDAL's spelling; None for any other address."""
    if _GDAL.match(href) is None:
        return None
    found = (remedy for pattern, remedy in _REMEDIES if re.match(rf"(?i)\s*{pattern}", href))
    return f"an address for GDAL; {next(found, 'write the address of the file itself')}"


def plain_addresses(hrefs: pa.Array) -> pa.Array:
    """Apply :func:`plain_address` to the rows of a string array that are in GDAL's spelling."""
    spelled = pc.fill_null(pc.match_substring_regex(hrefs, GDAL_ADDRESS), fill_value=False)
    if not pc.any(spelled).as_py():
        return hrefs
    made = pa.array([plain_address(href) for href in hrefs.filter(spelled).to_pylist()], hrefs.type)
    return pc.replace_with_mask(hrefs, spelled, made)


def gdal_addresses(hrefs: pa.Array) -> pa.Array:
    """Return addresses in GDAL's spelling: ``/vsicurl/https://...``, ``/vsis3/bucket/key``, an absolute path.

    Args:
        hrefs: string array of addresses.

    Returns:
        A string array of the same length; null for a null address, a relative path, and a scheme that GDAL does not
        have.
    """
    written = hrefs
    for pattern, prefix in _PREFIXES:
        written = pc.replace_substring_regex(written, pattern, prefix)
    # An address that is not in GDAL's spelling now is a path on a disk, or has a scheme that GDAL does not have.
    rest = pc.fill_null(pc.invert(pc.match_substring_regex(written, GDAL_ADDRESS)), fill_value=False)
    local = pa.array([_local(href) for href in written.filter(rest).to_pylist()], written.type)
    return pc.replace_with_mask(written, rest, local)


def _local(href: str) -> str | None:
    """Return the absolute path of a file on a disk; None for any other address."""
    if re.match(r"(?i)file://", href):
        return unquote(urlsplit(href).path)
    return str(Path(href).expanduser()) if href.startswith(("/", "~")) else None
