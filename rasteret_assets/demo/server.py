"""A local HTTP server that answers range requests for the demo's files, and counts them."""

from __future__ import annotations

import json
import os
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from rasteret_assets.errors import RasteretAssetsError
from rasteret_assets.storage.process.processes import run_sync

HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 8745

#: Address at which a server says whose files it serves and what it has served; such requests are not counted.
_STATUS: Final = "/.rasteret-demo"


class PortBusyError(RasteretAssetsError):
    """Another program listens on the port."""


@dataclass(frozen=True)
class FileServer:
    """A running server, in this process or in another one."""

    port: int
    is_own: bool = True

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
            yield FileServer(at, is_own=False)
            return
        try:
            runner = run_sync(_start(folder, at))
            break
        except OSError as error:
            reason = os.strerror(error.errno or 0)
    else:
        raise PortBusyError(f"port {at} cannot be opened ({reason}); choose another one with --port")
    try:
        yield FileServer(at)
    finally:
        run_sync(runner.cleanup())


async def _start(folder: str, port: int) -> web.AppRunner:
    """Serve a folder on a port until the runner that is returned is cleaned up."""
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
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port).start()
    except OSError:
        await runner.cleanup()
        raise
    return runner


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
