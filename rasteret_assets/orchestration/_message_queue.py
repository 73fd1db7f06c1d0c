"""The queue of a collection's messages, in Amazon SQS: received, kept back, given back, deleted.

A message that is received is hidden from everybody else for :data:`HIDDEN_S`. Whoever does not delete it in this time
sees it again, so that nothing is lost with the process that received it.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from rasteret_assets.errors import SpecError
from rasteret_assets.orchestration.graph_resources import S3Settings

#: Messages that a tick takes: their receipts are kept in its cursor, some 500 bytes each.
MOST_MESSAGES: Final = 200
#: Seconds for which a message is hidden after it was received.
HIDDEN_S: Final = 600
#: Seconds after which a message that could not be heeded yet is seen again.
LATER_S: Final = 60
_AT_ONCE: Final = 10  # what SQS takes in one request
_AMAZON: Final = re.compile(r"sqs\.([a-z0-9-]+)\.amazonaws\.com(\.cn)?")


@dataclass(frozen=True, kw_only=True)
class Message:
    """A message as it was received.

    Args:
        id: by which people find it.
        receipt: by which it is deleted.
        body: its text.
    """

    id: str
    receipt: str
    body: str


class EventQueue:
    """A queue, by its address.

    Args:
        client: of boto3.
        url: of the queue.
    """

    def __init__(self, client: Any, url: str) -> None:
        self._client = client
        self._url = url

    def receive(self) -> list[Message]:
        """Return the messages that are there, at most :data:`MOST_MESSAGES`, and hide them from others."""
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
        """Delete messages. One that was received again meanwhile stays, which costs a look."""
        self._each("delete_message_batch", receipts, {})

    def give_back(self, receipts: Sequence[str]) -> None:
        """Let messages be seen again after :data:`LATER_S`."""
        self._each("change_message_visibility_batch", receipts, {"VisibilityTimeout": LATER_S})

    def _each(self, method: str, receipts: Sequence[str], values: dict[str, Any]) -> None:
        for first in range(0, len(receipts), _AT_ONCE):
            group = receipts[first : first + _AT_ONCE]
            entries = [{"Id": str(number), "ReceiptHandle": receipt, **values} for number, receipt in enumerate(group)]
            getattr(self._client, method)(QueueUrl=self._url, Entries=entries)


@contextmanager
def open_queue(url: str, settings: S3Settings) -> Iterator[EventQueue]:
    """Open a queue with the credentials by which tables are read.

    Args:
        url: of the queue, which says its region.
        settings: whose keys or profile count; without them boto3's usual chain.

    Raises:
        SpecError: if the queue does not exist, or may not be read.
    """
    parts = urlsplit(url)
    region = _AMAZON.fullmatch(parts.hostname or "")
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
    try:
        yield EventQueue(client, url)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise SpecError(
            f"the queue {url} cannot be used ({code}): check graph.events_queue and who may read it"
        ) from None
    except BotoCoreError as error:
        kind = type(error).__name__
        raise SpecError(f"the queue {url} cannot be asked ({kind}): check graph.events_queue and credentials") from None
    finally:
        client.close()
