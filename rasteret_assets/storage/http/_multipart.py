"""Read several ranges from one answer: ``multipart/byteranges`` (RFC 9110, 14.6)."""

from __future__ import annotations

import re
from typing import Final

from rasteret_assets.storage.backend import RangeRead
from rasteret_assets.storage.http.answer import HttpAnswer, validators_of

#: Bytes that boundaries and part headers may add to two parts.
PARTS_ROOM: Final = 4096

_BOUNDARY = re.compile(r"""multipart/byteranges\s*;.*?\bboundary=(?:"([^"]+)"|([^\s;"]+))""", re.IGNORECASE)
_PART_RANGE = re.compile(
    rb"\r\ncontent-range:[ \t]*bytes[ \t]+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})[ \t]*\r\n", re.IGNORECASE
)


def read_ends_of(answer: HttpAnswer, head: int, tail: int) -> list[tuple[int, RangeRead]] | None:
    """Return start and end of an object from the answer to a request for its first ``head`` and last ``tail`` bytes.

    Returns:
        Pairs of the first byte and the range; None if the answer does not hold both ranges.
    """
    found = read_parts(answer)
    if found is None:
        return None
    parts, size = found
    ends = {(start, len(data)) for start, data in parts}
    if not {(0, min(head, size)), (max(0, size - tail), min(tail, size))} <= ends:
        return None
    tags = validators_of(answer.headers)
    return [(start, RangeRead(data, size, *tags)) for start, data in parts]


def is_multipart(answer: HttpAnswer) -> bool:
    """Return whether an answer is of several ranges, whole or cut short."""
    return _boundary(answer) is not None


def _boundary(answer: HttpAnswer) -> bytes | None:
    found = _BOUNDARY.match(answer.headers.get("content-type", "").strip())
    return (found.group(1) or found.group(2)).encode("latin-1") if answer.status == 206 and found else None


def read_parts(answer: HttpAnswer) -> tuple[list[tuple[int, bytes]], int] | None:
    """Return the parts of an answer as pairs of first byte and bytes, and the size of the whole object.

    Returns:
        None if the answer does not consist of whole parts of one object, because a server may ignore ranges.
    """
    boundary = _boundary(answer)
    if boundary is None:
        return None
    mark = b"--" + boundary
    parts: list[tuple[int, bytes]] = []
    sizes = set()
    at = answer.body.find(mark)
    # Parts are cut by the length of their range, because the bytes of an image may contain the boundary.
    while at >= 0 and not answer.body.startswith(b"--", at + len(mark)):
        end_of_head = answer.body.find(b"\r\n\r\n", at)
        ranged = _PART_RANGE.search(answer.body, at, end_of_head + 2) if end_of_head >= 0 else None
        if ranged is None:
            return None
        first, last, size = map(int, ranged.groups())
        data = answer.body[end_of_head + 4 : end_of_head + 5 + last - first]
        if not first <= last < size or len(data) != last - first + 1:
            return None
        parts.append((first, data))
        sizes.add(size)
        at = answer.body.find(mark, end_of_head + 4 + len(data))
    return (parts, sizes.pop()) if len(sizes) == 1 else None
