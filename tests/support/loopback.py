"""HTTP servers on loopback: a server in a thread, and a handler that answers in one call."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer


class LoopbackServer(ThreadingHTTPServer):
    """A server that takes many connections at once, and does not mind clients that hang up."""

    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request, client_address) -> None:
        """Say nothing: clients that hang up are part of these tests."""


class AnsweringHandler(BaseHTTPRequestHandler):
    """Base of handlers: says nothing about requests, and sends an answer in one call."""

    protocol_version = "HTTP/1.1"
    # Headers and body in one segment: Nagle's algorithm against delayed ACKs costs 40 ms a request otherwise.
    wbufsize = 1 << 20
    disable_nagle_algorithm = True

    def log_message(self, *args) -> None:
        """Say nothing."""

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Send status, headers and body."""
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


@contextmanager
def serving(*servers: HTTPServer) -> Iterator[None]:
    """Let servers answer, each in a thread of its own, until the block ends."""
    threads = [
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True) for server in servers
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()
