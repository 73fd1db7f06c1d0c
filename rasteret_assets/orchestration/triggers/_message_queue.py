"""Receive, hide, return and delete the messages of a collection's queue in Amazon SQS.

A received message is hidden from every reader for :data:`HIDDEN_S` seconds. A message that is not deleted in this time
is received again, so that no message is lost with the process that received it.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from rasteret_assets.errors import SpecError
from rasteret_assets.orchestration.graph_resources import S3Settings

#: Messages that a tick takes at most, because the sensor's cursor keeps their receipts, about 500 bytes each.
MOST_MESSAGES: Final = 200
#: Seconds for which a message is hidden after it was received.
HIDDEN_S: Final = 600
#: Seconds after which a message that has to wait is received again.
LATER_S: Final = 60
_AT_ONCE: Final = 10  # what SQS takes in one request
_AMAZON: Final = re.compile(r"sqs\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?")


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message as it was received.

    Args:
        id: of the message, for logs.
        receipt: handle by which the message is deleted or returned, valid for this reception.
        body: text of the message.
    """

    id: str
    receipt: str
    body: str


class EventQueue:
    """A queue of Amazon SQS.

    Args:
        client: of boto3.
        url: of the queue.
    """

    def __init__(self, client: Any, url: str) -> None:
        self._client = client
        self._url = url

    def receive(self) -> list[Message]:
        """Return at most :data:`MOST_MESSAGES` messages of the queue, and hide them from other readers."""
        found: dict[str, Message] = {}
        while len(found) < MOST_MESSAGES:
            answer = self._client.receive_message(
                QueueUrl=self._url, MaxNumberOfMessages=_AT_ONCE, VisibilityTimeout=HIDDEN_S, WaitTimeSeconds=0
            )
            messages = answer.get("Messages", [])
            if not messages:
                break
            for one in messages:
                receipt = one["ReceiptHandle"]
                found[receipt] = Message(id=one["MessageId"], receipt=receipt, body=one["Body"])
        return list(found.values())

    def delete(self, receipts: Sequence[str]) -> None:
        """Delete messages. A message that was received again meanwhile stays, and leads to one more comparison."""
        self._each("delete_message_batch", receipts, {})

    def give_back(self, receipts: Sequence[str]) -> None:
        """Let messages be received again after :data:`LATER_S` seconds."""
        self._each("change_message_visibility_batch", receipts, {"VisibilityTimeout": LATER_S})

    def _each(self, method: str, receipts: Sequence[str], values: dict[str, Any]) -> None:
        for first in range(0, len(receipts), _AT_ONCE):
            group = receipts[first : first + _AT_ONCE]
            entries = [{"Id": str(number), "ReceiptHandle": receipt, **values} for number, receipt in enumerate(group)]
            getattr(self._client, method)(QueueUrl=self._url, Entries=entries)


@contextmanager
def open_queue(url: str, settings: S3Settings) -> Iterator[EventQueue]:
    """Open a queue with the credentials that record tables are read with.

    Args:
        url: of the queue; for Amazon it names the region.
        settings: whose keys or profile count; boto3's usual chain where both are missing.

    Raises:
        SpecError: if the queue does not exist, or the credentials may not read it.
    """
    parts = urlsplit(url)
    region = _AMAZON.fullmatch(parts.hostname or "")
    try:
        session = boto3.session.Session(profile_name=settings.profile_name)
        client = session.client(
            "sqs",
            region_name=region[1] if region else settings.region_name or session.region_name or "us-east-1",
            endpoint_url=None if region else f"{parts.scheme}://{parts.netloc}",
            aws_access_key_id=settings.aws_access_key_id,
            aws_secret_access_key=settings.aws_secret_access_key,
            aws_session_token=settings.aws_session_token,
            config=Config(connect_timeout=5, read_timeout=10, retries={"max_attempts": 2}),
        )
        with closing(client):
            yield EventQueue(client, url)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise SpecError(
            f"the queue {url} cannot be used ({code}): check graph.events_queue and who may read it"
        ) from None
    except BotoCoreError as error:
        kind = type(error).__name__
        raise SpecError(f"the queue {url} cannot be asked ({kind}): check graph.events_queue and credentials") from None
