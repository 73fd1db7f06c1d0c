"""A queue on moto's SQS server."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

from tests.support.s3 import KEYS


class Queue:
    """A queue on moto's server."""

    def __init__(self, client: Any, url: str) -> None:
        self.client, self.url = client, url

    def send(self, *messages: object) -> None:
        for message in messages:
            body = message if isinstance(message, str) else json.dumps(message)
            self.client.send_message(QueueUrl=self.url, MessageBody=body)

    @property
    def counts(self) -> tuple[int, int]:
        """How many messages are seen, and how many are hidden."""
        names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
        told = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=list(names))["Attributes"]
        seen, hidden = (int(told[name]) for name in names)
        return seen, hidden


@contextmanager
def queue_server() -> Iterator[Queue]:
    """Serve an empty queue."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client("sqs", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", **KEYS)
    try:
        # moto keeps its queues as long as the process lives.
        name = f"items-{uuid.uuid4().hex}"
        path = client.create_queue(QueueName=name)["QueueUrl"].partition("://")[2].partition("/")[2]
        yield Queue(client, f"http://{host}:{port}/{path}")
    finally:
        client.close()
        server.stop()
