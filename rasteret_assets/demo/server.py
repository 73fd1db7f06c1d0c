"""A local HTTP server that answers range requests for the demo's files, and counts them."""

from __future__ import annotations

import asyncio
import errno
import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from rasteret_assets.errors import RasteretAssetsError

HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8745

#: Where the server tells who it is and what it has served; not counted itself.
_STATUS: Final = "/.rasteret-demo"
_START_TIMEOUT_S: Final = 10


class PortBusyError(RasteretAssetsError):
    """Somebody else listens on the port."""


@dataclass(frozen=True)
class Traffic:
    """What was asked of a server: number of requests and bytes of the answers."""

    requests: int
    bytes: int

    def since(self, earlier: Traffic) -> Traffic:
        """What came after ``earlier``."""
        return Traffic(self.requests - earlier.requests, self.bytes - earlier.bytes)


@dataclass(frozen=True)
class FileServer:
    """A server that is running, in this process or in another one."""

    port: int

    @property
    def url(self) -> str:
        """Address that file paths follow."""
        return f"http://{HOST}:{self.port}"

    def traffic(self) -> Traffic:
        """What it has served since it started."""
        status = _status(self.port) or {}
        return Traffic(int(status.get("requests", 0)), int(status.get("bytes", 0)))


@contextmanager
def serving(files: Path, port: int = DEFAULT_PORT) -> Iterator[FileServer]:
    """Serve a folder while the block runs. A server of the same folder that runs already is used as it is.

    Raises:
        PortBusyError: if something else listens on ``port``.
    """
    identity = str(files.resolve())
    status = _status(port)
    if status is not None and status.get("folder") == identity:
        yield FileServer(port)
        return
    thread = _ServerThread(files, port)
    thread.start()
    try:
        thread.wait_until_ready()
        yield FileServer(port)
    finally:
        thread.stop()


class _ServerThread(threading.Thread):
    """An aiohttp server on an event loop of its own."""

    def __init__(self, files: Path, port: int) -> None:
        super().__init__(name="demo-file-server", daemon=True)
        self._files = files
        self._port = port
        self._requests = 0
        self._bytes = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._error: OSError | None = None

    def run(self) -> None:
        """Serve until :meth:`stop`."""
        asyncio.set_event_loop(self._loop)
        runner = web.AppRunner(self._application(), access_log=None, shutdown_timeout=1)
        try:
            self._loop.run_until_complete(self._listen(runner))
        except OSError as error:
            self._error = error
            self._ready.set()
        else:
            self._ready.set()
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(runner.cleanup())
            self._loop.close()

    def wait_until_ready(self) -> None:
        """Return once the port is open.

        Raises:
            PortBusyError: if it is taken.
        """
        if not self._ready.wait(_START_TIMEOUT_S):
            raise PortBusyError(f"the file server did not start on port {self._port} within {_START_TIMEOUT_S} s")
        if self._error is None:
            return
        if self._error.errno == errno.EADDRINUSE:
            raise PortBusyError(f"port {self._port} is in use by another program; choose one with --port") from None
        reason = self._error.strerror or self._error
        raise PortBusyError(f"cannot listen on port {self._port} ({reason}); choose another one with --port") from None

    def stop(self) -> None:
        """Close the port and end the thread."""
        if self._error is None:  # otherwise it is on its way out by itself, and must not be interrupted
            self._loop.call_soon_threadsafe(self._loop.stop)
        self.join(_START_TIMEOUT_S)

    async def _listen(self, runner: web.AppRunner) -> None:
        await runner.setup()
        await web.TCPSite(runner, HOST, self._port).start()

    def _application(self) -> web.Application:
        application = web.Application()
        application.router.add_get(_STATUS, self._report)
        # Static files of aiohttp answer ranges and validators (ETag, Last-Modified), and stay inside the folder.
        application.router.add_static("/", self._files)
        application.on_response_prepare.append(self._count)
        return application

    async def _report(self, _: web.Request) -> web.Response:
        folder = str(self._files.resolve())
        return web.json_response({"folder": folder, "requests": self._requests, "bytes": self._bytes})

    async def _count(self, request: web.Request, response: web.StreamResponse) -> None:
        if request.path != _STATUS:
            self._requests += 1
            self._bytes += response.content_length or 0


def _status(port: int) -> dict[str, Any] | None:
    """What a demo server on ``port`` says about itself; None where there is none."""
    try:
        # No proxy: one that the environment names is not meant for this machine's own addresses.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{HOST}:{port}{_STATUS}", timeout=2) as answer:
            status = json.loads(answer.read())
    except (OSError, ValueError):
        return None
    return status if isinstance(status, dict) else None
