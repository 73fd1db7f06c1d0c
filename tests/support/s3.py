"""A bucket on moto's S3 server, for tests of what lies on an object store."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import boto3
import pyarrow.fs as pafs
from moto.server import DomainDispatcherApplication, ThreadedMotoServer, create_backend_app
from werkzeug.serving import make_server

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


@contextmanager
def guarded_bucket_server(bucket: str, opens: Callable[[Mapping[str, str]], bool]) -> Iterator[str]:
    """Serve an empty bucket to those only whose requests have the right headers; the endpoint's URL.

    Args:
        bucket: its name.
        opens: called with the headers of every request, by their names in lower case.
    """
    moto = DomainDispatcherApplication(create_backend_app)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        headers = {name[5:].replace("_", "-").lower(): text for name, text in environ.items() if name[:5] == "HTTP_"}
        if opens(headers):
            return moto(environ, start_response)
        start_response("403 Forbidden", [("Content-Type", "application/xml")])
        return [b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>"]

    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
