"""A bucket on moto's S3 server, for tests of what lies on an object store."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import pyarrow.fs as pafs
from moto.server import ThreadedMotoServer

KEYS = {"aws_access_key_id": "k", "aws_secret_access_key": "s"}


@contextmanager
def bucket_server(bucket: str) -> Iterator[str]:
    """Serve an empty bucket; the endpoint's ``host:port``."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1", **KEYS)
    try:
        client.create_bucket(Bucket=bucket)
        yield f"{host}:{port}"
    finally:
        client.close()
        server.stop()


def filesystem_of(endpoint: str) -> pafs.S3FileSystem:
    """A filesystem on the server."""
    return pafs.S3FileSystem(
        access_key=KEYS["aws_access_key_id"], secret_key=KEYS["aws_secret_access_key"], endpoint_override=endpoint,
        scheme="http", region="us-east-1", allow_delayed_open=True,
    )  # fmt: skip


@contextmanager
def requests_seen() -> Iterator[list[str]]:
    """What is asked of the server meanwhile, as ``GET /bucket/key``, without queries."""
    seen: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if found := re.search(r"([A-Z]+) (/[^ ?]+)", record.getMessage()):
                seen.append(" ".join(found.groups()))

    log, listener = logging.getLogger("werkzeug"), Listener()
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(listener)
    try:
        yield seen
    finally:
        log.removeHandler(listener)
        log.setLevel(level)
