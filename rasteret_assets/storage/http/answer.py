"""Read an HTTP answer to a range request as a range or an error, whichever client got the answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import NamedTuple, TypeGuard

from rasteret_assets.errors import (
    AccessDeniedError,
    ObjectNotFoundError,
    RangeReadError,
    ReadTimeoutError,
    StoreUnavailableError,
    ThrottledError,
    TruncatedReadError,
    WrongRangeError,
)
from rasteret_assets.secrets import redact
from rasteret_assets.storage.backend import RangeRead

# No object has more than 2**63 bytes, which take 19 digits.
_CONTENT_RANGE = re.compile(r"bytes\s+(?:([0-9]{1,19})-([0-9]{1,19})|\*)/([0-9]{1,19}|\*)", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,19}")

_ERRORS: dict[int, type[RangeReadError]] = {
    401: AccessDeniedError, 403: AccessDeniedError, 404: ObjectNotFoundError, 410: ObjectNotFoundError,
    408: ReadTimeoutError, 429: ThrottledError, 503: ThrottledError,
}  # fmt: skip


class HttpAnswer(NamedTuple):
    """An answer of a server.

    Args:
        status: HTTP status code.
        headers: by lower-case name.
        body: of a 206, the whole body; of a 200, the wanted range out of the whole object; of others, nothing.
        size: of a 200, the length of the whole object, if it was announced or the body was read to its end.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    size: int | None = None


def interpret(answer: HttpAnswer, url: str, start: int, length: int) -> RangeRead:
    """Return the range in an answer.

    Raises:
        TruncatedReadError: if the range is shorter than announced.
        WrongRangeError: if the range is another than was asked for, or the answer does not tell which range it is.
        RangeReadError: in the subclass that fits the status.
    """
    headers = answer.headers
    etag, modified = validators_of(headers)
    if answer.status == 206:
        size = _check_content_range(headers.get("content-range"), url, start, length, len(answer.body))
        return RangeRead(answer.body, size, etag, modified)
    if answer.status == 200:
        have, size = len(answer.body), answer.size
        if have < (length if size is None else min(length, size - start)):
            raise TruncatedReadError(f"{redact(url)}: {have} of {length} bytes arrived", href=redact(url))
        return RangeRead(answer.body, size, etag, modified)
    if answer.status == 416:
        size = total_size(answer)
        if size is not None and size > start:
            raise _wrong_range(url, f"HTTP 416 for byte {start} of {size}", 416)
        return RangeRead(b"", size if size is not None else start, etag, modified)
    raise status_error(answer, url)


def validators_of(headers: Mapping[str, str]) -> tuple[str | None, str | None]:
    """Return entity tag and last modification as a server told them; None for a missing or malformed one.

    Malformed values are left out, because a tag with a line end in it would add headers to the request that sends the
    tag back.
    """
    etag, modified = headers.get("etag"), headers.get("last-modified")
    return etag if is_sendable(etag) else None, modified if is_sendable(modified) else None


def is_sendable(value: str | None) -> TypeGuard[str]:
    """Return whether a text may be the value of a header: not empty, and without control characters."""
    return bool(value and value.isprintable())


def total_size(answer: HttpAnswer) -> int | None:
    """Return the size of the whole object by the answer's ``Content-Range``; None where it does not tell the size."""
    match = _CONTENT_RANGE.fullmatch(answer.headers.get("content-range", "").strip())
    return int(match.group(3)) if match and match.group(3) != "*" else None


def _check_content_range(header: str | None, url: str, start: int, length: int, have: int) -> int | None:
    """Return the size of the whole object, after checking that the answer is the wanted range (RFC 9110, 14.4)."""
    whole = f"bytes {start}-{start + length - 1}/"
    if header and have == length and header.startswith(whole) and _NUMBER.fullmatch(header, len(whole)):
        whole_size = int(header[len(whole) :])
        if whole_size >= start + length:
            return whole_size  # nearly all answers end here: exactly the wanted range
    # An answer is refused without a Content-Range in bytes, because nothing else tells where its bytes lie.
    match = _CONTENT_RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.group(1) is None:
        raise _wrong_range(url, "HTTP 206 does not say which bytes it brings")
    first, last = int(match.group(1)), int(match.group(2))
    size = None if match.group(3) == "*" else int(match.group(3))
    expected = last - first + 1
    if first != start:
        raise _wrong_range(url, f"asked for byte {start}, got byte {first}")
    if expected < 1 or expected > length or (size is not None and size <= last):
        raise _wrong_range(url, f"asked for {length} bytes, got the range {first}-{last}")
    if have > expected:
        raise _wrong_range(url, f"a range of {expected} bytes has {have}")
    if have != expected or (size is not None and have < min(length, size - start)):
        raise TruncatedReadError(f"{redact(url)}: {have} of {expected} bytes arrived", href=redact(url))
    return size


def _wrong_range(url: str, what: str, status: int = 206) -> WrongRangeError:
    return WrongRangeError(f"{redact(url)}: {what}", href=redact(url), status=status)


def status_error(answer: HttpAnswer, url: str) -> RangeReadError:
    """Return the error to raise for an answer without a range, in the class that fits its status."""
    status, where = answer.status, redact(url)
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = ""
    kind = _ERRORS.get(status, StoreUnavailableError if status >= 500 else RangeReadError)
    retry_after = _retry_after(answer.headers.get("retry-after"))
    return kind(f"{where}: HTTP {status} {reason}".rstrip(), href=where, status=status, retry_after=retry_after)


def _retry_after(value: str | None) -> float | None:
    """Return the seconds to wait, from either form of ``Retry-After`` (RFC 9110, 10.2.3); None if it is invalid."""
    if not value:
        return None
    if _NUMBER.fullmatch(value.strip()):
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None
