"""The head of an HTTP answer, read from its bytes (RFC 9112, 2 to 6)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from rasteret_assets.storage.http.body import MalformedError

#: Most bytes and most lines of a head; more are a server's mistake.
LONGEST_HEAD: Final = 64 * 1024
_MOST_LINES: Final = 256
#: Stands for the length of a body whose end is told by chunks.
CHUNKED: Final = -1
# Tables, because a look-up is quicker than a pattern, and latin-1 has more digits than ASCII (a superscript 2).
_VERSIONS: Final = {"HTTP/1.1 ": 1, "HTTP/1.0 ": 0}
_STATUSES: Final = {str(status): status for status in range(100, 1000)}
_LENGTH: Final = re.compile(r"[0-9]{1,19}")
_FOLD: Final = re.compile(r"\r\n[ \t]+")
#: Answers that have no body, whatever their head says (RFC 9112, 6.3).
_BODILESS: Final = frozenset({204, 304})


class Head(NamedTuple):
    """Status line and headers of an answer.

    Args:
        status: HTTP status code.
        headers: by lower-case name; values of the same name are joined by commas, of cookies by line ends.
        length: bytes of the body; :data:`CHUNKED` where chunks tell its end, None where it ends with the connection.
        keep: whether the connection may be used again.
    """

    status: int
    headers: dict[str, str]
    length: int | None
    keep: bool


def read_head(head: bytes) -> Head:
    """Return the head in ``head``, which has no empty line at its end.

    Raises:
        MalformedError: if the bytes are not a head, or tell two lengths of the body.
    """
    text = head.decode("latin-1")
    if "\r\n " in text or "\r\n\t" in text:  # a value over several lines (RFC 9112, 5.2)
        text = _FOLD.sub(" ", text)
    first, *lines = text.split("\r\n")
    version, status = _VERSIONS.get(first[:9]), _STATUSES.get(first[9:13].rstrip())
    if version is None or status is None:
        raise MalformedError("the answer is not HTTP")
    if len(lines) > _MOST_LINES:
        raise MalformedError("the answer has too many headers")
    headers = fields_of(lines)
    keep = version == 1
    if (options := headers.get("connection")) is not None:
        tokens = {token.strip().lower() for token in options.split(",")}
        # "close" wins over "keep-alive"; HTTP/1.0 closes unless the server says "keep-alive" (RFC 9112, 9.3).
        keep = "close" not in tokens and (keep or "keep-alive" in tokens)
    if status in _BODILESS:
        return Head(status, headers, 0, keep)
    if "transfer-encoding" in headers and headers["transfer-encoding"].lower() != "identity":
        coding = headers["transfer-encoding"]
        if coding.lower() != "chunked":
            raise MalformedError(f"the body has a transfer coding ({coding[:40]!r}) that was not asked for")
        # Not kept with a length beside the chunks: a proxy may have read another end of the body (RFC 9112, 6.3).
        keep = keep and version == 1 and "content-length" not in headers
        return Head(status, headers, CHUNKED, keep)
    length = headers.get("content-length")
    if length is None:
        return Head(status, headers, None, keep=False)
    return Head(status, headers, _length(length), keep)


def fields_of(lines: Iterable[str]) -> dict[str, str]:
    """Return the headers in the lines of a head, by lower-case name.

    Several lines of one name are a list, joined by commas (RFC 9110, 5.3); cookies are joined by line ends, because
    their values hold commas.
    """
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        name = name.lower()
        if name in headers:
            headers[name] = _joined(name, headers[name], value.strip())
        else:
            headers[name] = value.strip()
    return headers


def _joined(name: str, one: str, other: str) -> str:
    return one if one == other else one + ("\n" if name == "set-cookie" else ", ") + other


def _length(text: str) -> int:
    """Return the bytes of a body; the same number several times counts once (RFC 9110, 8.6)."""
    if not _LENGTH.fullmatch(text):
        lengths = {part.strip() for part in text.split(",")}
        text = lengths.pop()
        if lengths or not _LENGTH.fullmatch(text):
            raise MalformedError("the length of the body is not a number")
    return int(text)
