"""A local HTTP server that answers range requests for the demo's files, and counts them."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from rasteret_assets.errors import RasteretAssetsError

HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8745

#: Address at which a server says whose files it serves and what it has served; such requests are not counted.
_STATUS: Final = "/.rasteret-demo"
_START_TIMEOUT_S: Final = 10


class PortBusyError(RasteretAssetsError):
    """Another program listens on the port."""


@dataclass(frozen=True)
class FileServer:
    """A running server, in this process or in another one."""

    port: int

    @property
    def url(self) -> str:
        """Address that the paths of files follow."""
        return f"http://{HOST}:{self.port}"

    def traffic(self) -> Counter[str]:
        """Return what the server has served: ``requests``, ``bytes``, and requests for the beginning of a file.

        The last are called ``headers``, because a file's header is there.
        """
        return Counter(_status(self.port).get("traffic", {}))


@contextmanager
def serving(files: Path, port: int = DEFAULT_PORT, *, tries: int = 1) -> Iterator[FileServer]:
    """Serve a folder while the block runs. A server of the same folder that runs already is used.

    Args:
        files: the folder.
        port: to listen on.
        tries: how many ports are tried, ``port`` and those after it.

    Raises:
        PortBusyError: if none of the ports can be opened.
    """
    folder = str(files.resolve())
    for at in range(port, port + tries):
        if _status(at).get("folder") == folder:
            yield FileServer(at)
            return
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        thread = threading.Thread(target=asyncio.run, args=(_serve(folder, at, started),), daemon=True)
        thread.start()
        if started.exception(_START_TIMEOUT_S) is None:
            break
    loop, stop = started.result()
    try:
        yield FileServer(at)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(_START_TIMEOUT_S)


async def _serve(folder: str, port: int, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    """Serve a folder until the event is set that ``started`` gets, or fail ``started``."""
    traffic: Counter[str] = Counter()

    async def report(_: web.Request) -> web.Response:
        return web.json_response({"folder": folder, "traffic": traffic})

    async def count(request: web.Request, response: web.StreamResponse) -> None:
        if request.path != _STATUS:
            is_first = request.headers.get("Range", "").startswith("bytes=0-")
            traffic.update(requests=1, headers=int(is_first), bytes=response.content_length or 0)

    application = web.Application()
    application.router.add_get(_STATUS, report)
    # Static files of aiohttp answer ranges and validators (ETag, Last-Modified), and stay inside the folder.
    application.router.add_static("/", folder)
    application.on_response_prepare.append(count)
    runner, stop = web.AppRunner(application, access_log=None, shutdown_timeout=1), asyncio.Event()
    try:
        await runner.setup()
        await web.TCPSite(runner, HOST, port).start()
        started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
    except OSError as error:
        message = f"port {port} cannot be opened ({os.strerror(error.errno or 0)}); choose another one with --port"
        started.set_exception(PortBusyError(message))
    finally:
        await runner.cleanup()


def _status(port: int) -> dict[str, Any]:
    """Return what a demo's server on a port says about itself; nothing where another program listens, or none."""
    # Without proxies, because one that the environment names is not meant for addresses of this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{HOST}:{port}{_STATUS}", timeout=2) as answer:
            status = json.loads(answer.read())
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}
