"""The three forms of a file's address, which are never mixed.

* **To fetch**: the address as the record gives it, with everything that grants access.
* **As identity** (:func:`identity_href`, stored as :func:`identity_hashes`): tells which file is meant. Only user
  information and the parameters of a complete signature are left out, so that a renewed signature names the same file,
  while ``get.tif?st=1`` and ``get.tif?st=2`` are two files.
* **To publish** (:func:`unsigned`): leads to the file and grants nothing. Whatever may be a credential is left out.

:mod:`rasteret_assets.secrets` decides what a credential is. If the user gives no rule, addresses of one identity are
published as one address.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.schema import IDENTITY_TYPE
from rasteret_assets.secrets import (
    BY_DEFAULT,
    MAY_HOLD_ONE,
    SecretRule,
    redact,
    redact_text,
    without_secrets,
    without_signature,
)
from rasteret_assets.storage.addresses.urls import scheme


def identity_href(href: str) -> str:
    """Return ``href`` without user information and without the parameters of complete, recognised signatures.

    The result may hold other credentials, such as ``token=...``, so it is compared and hashed and never written.
    """
    return href if scheme(href) in {"", "file"} else without_signature(href)


def identity_hrefs(hrefs: pa.Array) -> pa.Array:
    """Apply :func:`identity_href` to a string array; rows without a query and user information stay as they are."""
    return _mapped(hrefs, identity_href, "[?@#]") if _holds_one_of(hrefs, "?@#") else hrefs


def identity_hashes(hrefs: pa.Array) -> pa.FixedSizeBinaryArray:
    """Return the identities of files in the form that is stored: 128-bit hashes of :func:`identity_href`.

    The hash is BLAKE2b, because a hash that can be computed backwards would give away the secrets in an address.

    Args:
        hrefs: string array of N addresses as they are fetched.

    Returns:
        N values of :data:`~rasteret_assets.schema.IDENTITY_TYPE`, null for a null address; equal in every process.
    """
    size = IDENTITY_TYPE.byte_width
    texts = identity_hrefs(hrefs).cast(pa.large_binary()).fill_null(b"").to_pylist()
    # A Python loop, because Arrow has no kernel that hashes: half a microsecond per address.
    digests = b"".join([hashlib.blake2b(text, digest_size=size).digest() for text in texts])
    made = pa.FixedSizeBinaryArray.from_buffers(IDENTITY_TYPE, len(texts), [None, pa.py_buffer(digests)])
    return pc.if_else(hrefs.is_valid(), made, pa.scalar(None, IDENTITY_TYPE)) if hrefs.null_count else made


def unsigned(href: str, rule: SecretRule = BY_DEFAULT) -> str:
    """Return an address, or a text with addresses in it, without anything that may grant access."""
    return without_secrets(href, rule)


def unsigned_hrefs(hrefs: pa.Array, rule: SecretRule = BY_DEFAULT) -> pa.Array:
    """Apply :func:`unsigned` to a string array; rows without parameters and user information stay as they are."""
    if not may_be_signed(hrefs):
        return hrefs
    return _mapped(hrefs, lambda href: without_secrets(href, rule), MAY_HOLD_ONE)


def may_be_signed(texts: pa.Array) -> bool:
    """Return whether some text of a string array may hold a credential, by one search in the bytes of all texts."""
    return _holds_one_of(texts, "?@#;=%", also=(b"/eyJ", b"/p/"))


def redacted_hrefs(hrefs: pa.Array) -> pa.Array:
    """Apply :func:`~rasteret_assets.secrets.redact` to the rows of a string array that may need it."""
    return _mapped(hrefs, redact, MAY_HOLD_ONE)


def redacted_texts(texts: pa.Array) -> pa.Array:
    """Apply :func:`~rasteret_assets.secrets.redact_text` to texts such as errors, where they may hold addresses."""
    return _mapped(texts, redact_text, MAY_HOLD_ONE)


def _mapped(hrefs: pa.Array, function: Callable[[str], str], marks: str) -> pa.Array:
    """Apply a function to the rows of a string array that match the pattern ``marks``."""
    suspect = pc.match_substring_regex(hrefs, marks).fill_null(fill_value=False)
    # A Python loop over these rows, because Arrow has no kernel that parses a query.
    made = pa.array([function(href) for href in hrefs.filter(suspect).to_pylist()], hrefs.type)
    return pc.replace_with_mask(hrefs, suspect, made)


def _holds_one_of(texts: pa.Array, marks: str, also: tuple[bytes, ...] = ()) -> bool:
    # Nearly all addresses hold no mark, and one search in the bytes of all rows costs a tenth of an Arrow kernel.
    _, places, content = texts.buffers()
    if content is None:
        return False
    ends = np.frombuffer(places, np.int64 if pa.types.is_large_string(texts.type) else np.int32)
    first, last = int(ends[texts.offset]), int(ends[texts.offset + len(texts)])
    letters = content.slice(first, last - first).to_pybytes()
    return any(mark.encode() in letters for mark in marks) or any(mark in letters for mark in also)
