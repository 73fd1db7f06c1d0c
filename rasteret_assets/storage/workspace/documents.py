"""JSON documents of a workspace: parsed, and checked against the form that this version reads and writes.

A document is either a state or a cache. A partition whose state has an unknown form is built again; a cache with an
unknown form is made anew. Only a document of a newer format is refused, because an older version must not overwrite it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from rasteret_assets.errors import CollectionError
from rasteret_assets.schema import RETRY_UNTIL

#: Key and number of the format of a document. A document without the key has format 1.
FORMAT_KEY: Final = "format"
FORMAT: Final = 1

#: Key of the number of the lock holder that wrote a state.
FENCE: Final = "fence"

#: Marks a partition whose file and state do not match, a file that has no state, and a state that cannot be read.
LOST: Final = "lost"

#: Key, in a state, of the facts about the file that is about to be published; None if the file is about to be deleted.
NEXT: Final = "next"

_COORDINATES: Final = (4, 6)


def parse(text: bytes) -> Any:
    """Return the document in a JSON text.

    Raises:
        ValueError: if the text is not JSON, or is nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def dumped(document: Any) -> bytes:
    """Return a document as JSON text, which is the same for equal documents."""
    return json.dumps(document, sort_keys=True, indent=1).encode()


def refuse_newer(document: Any, path: str) -> None:
    """Refuse a document of a newer format than this version reads.

    Raises:
        CollectionError: naming the file.
    """
    number = document.get(FORMAT_KEY, FORMAT) if isinstance(document, dict) else FORMAT
    if _is_count(number) and number > FORMAT:
        raise CollectionError(
            f"{path} was written by a newer version of rasteret_assets (format {number}; this version reads {FORMAT}): "
            "upgrade it"
        )


def lost_state() -> dict[str, Any]:
    """Return the state of a partition of which nothing is known, which is therefore built again."""
    return {"source_version": "", LOST: True}


def is_state(document: Any) -> bool:
    """Return whether a document is the state of a partition, with valid values of all keys that this version reads."""
    return (
        isinstance(document, dict)
        and "source_version" in document
        and all(fits(document[name]) for name, fits in _STATE.items() if name in document)
        and ("rows" not in document or is_facts(document))
    )


def is_facts(document: Any) -> bool:
    """Return whether a document holds the rows, bytes and digest of a file."""
    return (
        isinstance(document, dict)
        and _is_count(document.get("rows"))
        and _is_count(document.get("bytes"))
        and isinstance(document.get("content_hash"), str)
    )


def fence_of(document: Any) -> int:
    """Return the number of the lock holder that wrote a state; 0 where the document has none."""
    fence = document.get(FENCE) if isinstance(document, dict) else None
    return int(fence) if fence is not None and _is_count(fence) else 0


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _optional(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _list_of(kind: type | tuple[type, ...]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_bbox(value: Any) -> bool:
    return _list_of((int, float))(value) and len(value) in _COORDINATES


def _is_interval(value: Any) -> bool:
    return _list_of((str, type(None)))(value) and len(value) == 2


def _are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_count, value.values()))


def _are_counts_by_time(value: Any) -> bool:
    return _are_counts(value) and all(map(_is_time, value))


def _is_time(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


_STATE: Final[Mapping[str, Callable[[Any], bool]]] = {
    "source_version": lambda value: isinstance(value, str),
    NEXT: _optional(is_facts),
    FENCE: _is_count,
    "bbox": _optional(_is_bbox),
    "interval": _is_interval,
    "collections": _list_of(str),
    "bands": _list_of(str),
    "failures": _are_counts,
    RETRY_UNTIL: _are_counts_by_time,
}
