"""Read messages about new or changed items: which partitions of a collection may have changed.

A message is a hint and nothing else: it may come twice, late, out of order or never, and from anybody who may write to
the queue. Comparing the source with the published partitions decides what is built.

Messages may be STAC items, collections of STAC items, S3 event notifications, and any of these inside messages of SNS
(raw or wrapped) and EventBridge:

* https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html
* https://docs.aws.amazon.com/sns/latest/dg/sns-message-and-json-formats.html
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from rasteret_assets.partitions import hive_keys, partition_key
from rasteret_assets.schema import UNDATED
from rasteret_assets.spec import CollectionSpec

#: Wrappers inside one another that are opened at most.
_DEEPEST: Final = 6


@dataclass(frozen=True, kw_only=True)
class Hint:
    """Partitions that messages say have changed.

    Args:
        partitions: keys of the partitions of the items in the messages.
        is_vague: whether a message tells of a change and names no partition.
    """

    partitions: frozenset[str] = frozenset()
    is_vague: bool = False

    def __or__(self, other: "Hint") -> "Hint":
        return Hint(partitions=self.partitions | other.partitions, is_vague=self.is_vague or other.is_vague)

    def __bool__(self) -> bool:
        return self.is_vague or bool(self.partitions)


class MessageError(ValueError):
    """A message that is not understood; the text of the error repeats nothing of the message."""


def hint_of(body: str, spec: CollectionSpec) -> Hint:
    """Return the hint in the body of a message; an empty hint for a test message of the queue.

    Raises:
        MessageError: if the body is neither a STAC item nor a notification of S3.
    """
    hint = Hint()
    try:
        for found in _unwrapped(json.loads(body), _DEEPEST):
            hint |= _said(found, spec)
    except RecursionError:
        raise MessageError("it is nested too deeply") from None
    except json.JSONDecodeError:
        raise MessageError("it is not JSON") from None
    return hint


def _unwrapped(document: Any, deepest: int) -> Iterator[Any]:
    """Yield the items and notifications in a message, taken out of their wrappers."""
    if not deepest:
        raise MessageError("it is wrapped too often")
    match document:
        case list():
            inside: Sequence[Any] = document
        case {"type": "FeatureCollection", "features": list(features)}:
            inside = features
        case {"Records": list(records)}:
            inside = records
        case {"Message": str(text)}:  # of SNS
            inside = [json.loads(text)]
        case {"Sns": dict(notice)} | {"detail-type": str(), "detail": dict(notice)}:
            inside = [notice]
        case _:
            yield document
            return
    for part in inside:
        yield from _unwrapped(part, deepest - 1)


def _said(document: Any, spec: CollectionSpec) -> Hint:
    """Return the hint of an item or a notification."""
    match document:
        case {"type": "Feature", "properties": dict(properties)}:
            return Hint(partitions=frozenset({_partition(properties, spec)}))
        case {"Event": "s3:TestEvent"}:  # S3 sends it when a queue is connected
            return Hint()
        case {"s3": {"object": {"key": str()}}} | {"bucket": {"name": str()}, "object": {"key": str()}}:
            return Hint(is_vague=True)
    raise MessageError("it is neither a STAC item nor a notification of S3")


def _partition(properties: Mapping[str, Any], spec: CollectionSpec) -> str:
    """Return the key of the partition that an item belongs to."""
    text = properties.get("datetime")
    if text is None and spec.interval_partition == "start_datetime":
        text = properties.get("start_datetime")
    if text is None:
        return UNDATED
    try:
        time = datetime.fromisoformat(text)
        time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        raise MessageError("the datetime of its item is not a datetime") from None
    return partition_key(*(time.year, time.month, time.day)[: len(hive_keys(spec.partition_by))])
