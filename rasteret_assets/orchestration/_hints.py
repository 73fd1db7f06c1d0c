"""What a message about new or changed items says of a collection: which of its partitions may be worth a look now.

A message is a hint and nothing else. It may come twice, late, out of order or never, and from anybody who may write to
the queue; what is built is decided by comparing the source with what is published.

Understood are STAC items and collections of them, S3 event notifications, and either of these within messages of SNS
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

#: Wrappers within wrappers that are opened.
_DEEPEST: Final = 6


@dataclass(frozen=True, kw_only=True)
class Hint:
    """What messages say.

    Args:
        partitions: those that items in them belong to.
        is_vague: whether something changed of which no message says to which partition it belongs.
    """

    partitions: frozenset[str] = frozenset()
    is_vague: bool = False

    def __or__(self, other: "Hint") -> "Hint":
        return Hint(partitions=self.partitions | other.partitions, is_vague=self.is_vague or other.is_vague)

    def __bool__(self) -> bool:
        return self.is_vague or bool(self.partitions)


class MessageError(ValueError):
    """A message that is not understood; the text does not repeat what stands in it."""


def hint_of(body: str, spec: CollectionSpec) -> Hint:
    """Return what the body of a message says of a collection; an empty hint where it is a test of the queue.

    Raises:
        MessageError: if it is neither a STAC item nor a notification of S3.
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
    """Yield the items and notifications in a message, whatever they are wrapped in."""
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
    """Return what an item or a notification says."""
    match document:
        case {"type": "Feature", "properties": dict(properties)}:
            return Hint(partitions=frozenset({_partition(properties, spec)}))
        case {"Event": "s3:TestEvent"}:  # S3's own, when a queue is connected
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
        raise MessageError("the datetime of its item is not one") from None
    return partition_key(*(time.year, time.month, time.day)[: len(hive_keys(spec.partition_by))])
