"""The three forms of a file's address, which are never mixed.

* **To fetch**: as the record gives the address, with everything that grants access.
* **As identity** (:func:`identity_href`, stored as :func:`identity_hashes`): says which file is meant. Only user
  information and the parameters of a complete signature are left out, so that a renewed signature names the same file,
  while ``get.tif?st=1`` and ``get.tif?st=2`` are two files.
* **To publish** (:func:`unsigned`): leads to the file and grants nothing. Whatever may be a credential is left out.

The published form is made from the identity form: addresses of one identity are published as one address.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.schema import IDENTITY_TYPE
from rasteret_assets.storage.urls import scheme, without_user


class _Signature(NamedTuple):
    """A way to sign an address.

    Args:
        needs: lower-case names of query parameters; the signature is complete with one of every set.
        fields: all names that the signature may use.
    """

    needs: tuple[frozenset[str], ...]
    fields: frozenset[str]


def _signature(needs: str, *optional: str) -> _Signature:
    """Read ``"a b|c"`` as: ``a``, and ``b`` or ``c``."""
    sets = tuple(frozenset(names.split("|")) for names in needs.split())
    return _Signature(sets, frozenset(optional).union(*sets))


_SIGNATURES: Final = (
    # AWS query authentication, version 4, which Google's and Alibaba's newer signatures follow, and version 2.
    _signature(
        "x-amz-algorithm x-amz-credential x-amz-date x-amz-expires x-amz-signedheaders x-amz-signature",
        "x-amz-security-token", "x-amz-s3session-token", "x-amz-content-sha256", "x-amz-region-set",
    ),
    _signature("awsaccesskeyid signature expires", "x-amz-security-token"),
    _signature(
        "x-goog-algorithm x-goog-credential x-goog-date x-goog-expires x-goog-signedheaders x-goog-signature",
        "x-goog-security-token",
    ),
    _signature("googleaccessid signature expires"),
    _signature(
        "x-oss-signature-version x-oss-credential x-oss-date x-oss-expires x-oss-signature", "x-oss-security-token"
    ),
    _signature("ossaccesskeyid signature expires", "security-token"),
    # Azure's shared access signatures, of a service (sr), an account (ss, srt) or a user's delegation (sk...). Which of
    # the others must be there depends on the version (sv) and on policies that the account stores.
    _signature(
        "sig sv", "st", "se", "sp", "sr", "ss", "srt", "si", "spr", "sip", "ses", "skoid", "sktid", "skt", "ske",
        "sks", "skv", "saoid", "suoid", "scid", "sdd", "sduoid", "skdutid",
    ),
    # CloudFront's and Google Cloud CDN's signed URLs.
    _signature("key-pair-id signature expires|policy", "hash-algorithm"),
    _signature("keyname signature expires|urlprefix"),
)  # fmt: skip

# Parameters that grant access by themselves, whatever stands beside them.
_GRANTING_PREFIXES: Final = ("x-amz-", "x-goog-", "x-oss-")
_GOOGLE_API_KEY: Final = "key=AIza"
_GRANTING: Final = frozenset({
    "sig", "signature", "awsaccesskeyid", "googleaccessid", "ossaccesskeyid", "key-pair-id", _GOOGLE_API_KEY,
    "token", "access_token", "access-token", "accesstoken", "auth_token", "id_token", "session_token", "security-token",
    "api_key", "api-key", "apikey", "subscription-key", "jwt", "sas", "auth", "authorization", "password", "passwd",
    "secret", "client_secret", "jsessionid",
})  # fmt: skip

# What stands between parameters: also as HTML writes it. A semicolon counts only before another name, because values
# such as lists of signed headers hold semicolons too.
_BETWEEN: Final = re.compile(r"(&amp;|&|;(?=[^&;=]*=))")
_PATH_PARAMETER: Final = re.compile(r";([^;/=]*)=[^;/]*")
_MARKS: Final = "?@#;"


def identity_href(href: str) -> str:
    """Return ``href`` without user information and without the parameters of complete, recognised signatures.

    The result may hold other credentials, such as ``token=...``: it is compared and hashed, and never written.
    """
    return href if scheme(href) in {"", "file"} else _rewritten(without_user(href), _of_complete_signatures)


def identity_hrefs(hrefs: pa.Array) -> pa.Array:
    """Apply :func:`identity_href` to a string array; rows with neither a query nor user information are not touched."""
    return _mapped(hrefs, identity_href, "?@")


def identity_hashes(hrefs: pa.Array) -> pa.FixedSizeBinaryArray:
    """Return the identities of files as they may be stored: 128-bit hashes of :func:`identity_href`.

    The hash is BLAKE2b, because a hash that can be computed backwards would give away what an address holds.

    Args:
        hrefs: string array of N addresses as they are fetched.

    Returns:
        N values of :data:`~rasteret_assets.schema.IDENTITY_TYPE`, null where the address is; equal in every process.
    """
    size = IDENTITY_TYPE.byte_width
    texts = identity_hrefs(hrefs).cast(pa.large_binary()).fill_null(b"").to_pylist()
    # A Python loop, because Arrow has no kernel that hashes: half a microsecond each.
    digests = b"".join([hashlib.blake2b(text, digest_size=size).digest() for text in texts])
    made = pa.FixedSizeBinaryArray.from_buffers(IDENTITY_TYPE, len(texts), [None, pa.py_buffer(digests)])
    return pc.if_else(hrefs.is_valid(), made, pa.scalar(None, IDENTITY_TYPE)) if hrefs.null_count else made


def unsigned(href: str) -> str:
    """Return ``href`` without anything that may grant access; everything else stays as written.

    Names that mean something only within a signature (``st``, ``expires``, ``policy``, ...) are left out only beside
    a part of such a signature: elsewhere they are part of the file's address.
    """
    if scheme(href) in {"", "file"}:
        return href
    address, mark, fragment = _rewritten(identity_href(href), _that_may_grant).partition("#")
    path, question, query = address.partition("?")
    path = _PATH_PARAMETER.sub(lambda found: "" if _grants(unquote(found[1]).lower()) else found[0], path)
    return path + question + query + mark + fragment


def unsigned_hrefs(hrefs: pa.Array) -> pa.Array:
    """Apply :func:`unsigned` to a string array; rows that hold no parameter and no user information are not touched."""
    return _mapped(hrefs, unsigned, _MARKS)


def may_be_signed(texts: pa.Array) -> bool:
    """Tell whether some text of a string array may hold what :func:`unsigned` leaves out: one look at its bytes."""
    return _holds_one_of(texts, _MARKS)


def _mapped(hrefs: pa.Array, function: Callable[[str], str], marks: str) -> pa.Array:
    """Apply a function to the rows of a string array that hold one of some characters."""
    if not _holds_one_of(hrefs, marks):
        return hrefs
    # Other texts, such as media types, hold these characters too.
    suspect = pc.match_substring_regex(hrefs, rf"(?s)^[A-Za-z][A-Za-z0-9+.-]*://.*[{marks}]").fill_null(
        fill_value=False
    )
    # Only these rows are walked: parsing a query has no Arrow kernel.
    made = pa.array([function(href) for href in hrefs.filter(suspect).to_pylist()], hrefs.type)
    return pc.replace_with_mask(hrefs, suspect, made)


def _holds_one_of(texts: pa.Array, marks: str) -> bool:
    # Nearly all addresses hold none of them, and searching the bytes of all rows at once costs a tenth of a kernel.
    _, places, content = texts.buffers()
    if content is None:
        return False
    ends = np.frombuffer(places, np.int64 if pa.types.is_large_string(texts.type) else np.int32)
    first, last = int(ends[texts.offset]), int(ends[texts.offset + len(texts)])
    letters = content.slice(first, last - first).to_pybytes()
    # JSON may write the slashes of an address as \/ (RFC 8259, 7).
    begins = b"://" in letters or rb":\/" in letters
    return begins and any(mark.encode() in letters for mark in marks)


def _rewritten(address: str, choose: Callable[[tuple[str, ...]], frozenset[str]]) -> str:
    """Drop query parameters whose names are chosen among those that stand together.

    A fragment is looked at in the same way: it may be the end of a path with a sign of number in it, or hold a token.
    """
    first, *others = address.split("#")
    made = _without(first, choose)
    for piece in others:
        made += "#" + (_without(piece, choose) if "?" in piece else _without("?" + piece, choose).removeprefix("?"))
    return made


def _without(piece: str, choose: Callable[[tuple[str, ...]], frozenset[str]]) -> str:
    base, mark, query = piece.partition("?")
    items = _BETWEEN.split(query)
    names = tuple(map(_name, items[::2]))
    dropped = choose(names)
    if dropped.isdisjoint(names):
        return piece
    kept = [position for position, name in enumerate(names) if name not in dropped]
    # Before the first parameter stands the question mark, before every other one what separated it.
    text = "".join(("" if place == 0 else items[2 * at - 1]) + items[2 * at] for place, at in enumerate(kept))
    return base + mark + text if text else base


def _name(parameter: str) -> str:
    """Lower-case name of a query parameter, ``""`` where it has no value."""
    if parameter.startswith(_GOOGLE_API_KEY):
        return _GOOGLE_API_KEY
    name, _, value = parameter.partition("=")
    return unquote(name).lower() if value else ""


# The addresses of a table are signed in few ways, and the names hold no secret.
@lru_cache(maxsize=1024)
def _of_complete_signatures(names: tuple[str, ...]) -> frozenset[str]:
    complete = (kind.fields for kind in _SIGNATURES if not any(need.isdisjoint(names) for need in kind.needs))
    return frozenset[str]().union(*complete)


@lru_cache(maxsize=1024)
def _that_may_grant(names: tuple[str, ...]) -> frozenset[str]:
    granting = frozenset(filter(_grants, names))
    beside = (kind.fields for kind in _SIGNATURES if not kind.fields.isdisjoint(granting))
    return granting.union(*beside)


def _grants(name: str) -> bool:
    return name in _GRANTING or name.startswith(_GRANTING_PREFIXES)
