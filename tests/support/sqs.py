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

    def publish(self, message: object, *, raw: bool) -> None:
        """Send a message by a topic of SNS that the queue is subscribed to."""
        sns = boto3.client("sns", endpoint_url=self.endpoint, region_name="us-east-1", **KEYS)
        topic = sns.create_topic(Name=f"items-{uuid.uuid4().hex}")["TopicArn"]
        attributes = {"RawMessageDelivery": "true" if raw else "false"}
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=self.arn, Attributes=attributes)
        sns.publish(TopicArn=topic, Message=json.dumps(message))
        sns.close()

    def notify(self, key: str) -> None:
        """Write an object to a bucket of S3 that notifies the queue."""
        s3 = boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", **KEYS)
        bucket = f"items-{uuid.uuid4().hex}"
        s3.create_bucket(Bucket=bucket)
        told = {"QueueConfigurations": [{"QueueArn": self.arn, "Events": ["s3:ObjectCreated:*"]}]}
        s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=told)
        s3.put_object(Bucket=bucket, Key=key, Body=b"PAR1")
        s3.close()

    @property
    def endpoint(self) -> str:
        """Address of moto's server, for all services."""
        return "/".join(self.url.split("/")[:3])

    @property
    def arn(self) -> str:
        """Name of the queue among all of AWS' resources."""
        attributes = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])["Attributes"]
        return str(attributes["QueueArn"])

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
