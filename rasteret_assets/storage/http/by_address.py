"""Parquet files and documents at HTTP(S) addresses: asked for by a short request each, and refused by name."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import pyarrow.fs as pafs

from rasteret_assets.errors import (
    AccessDeniedError,
    LinkLocalRefusedError,
    ObjectNotFoundError,
    RangeReadError,
    SourceError,
    WrongRangeError,
)
from rasteret_assets.secrets import redact
from rasteret_assets.storage.backend import RangeRead
from rasteret_assets.storage.connections import connected
from rasteret_assets.storage.http.file_handler import HttpFiles, tried
from rasteret_assets.storage.http.http_backend import HttpBackend
from rasteret_assets.storage.link_local import is_link_local
from rasteret_assets.storage.listing import Listed
from rasteret_assets.storage.processes import run_sync
from rasteret_assets.storage.urls import host, scheme

T = TypeVar("T")

#: First and last bytes of a Parquet file, of which the second are those of one with an encrypted footer.
_MAGIC: Final = (b"PAR1", b"PARE")
#: Files that are asked about at once.
_ASKED_AT_ONCE: Final = 16
#: Seconds after its first failure within which a look at a file is tried again: a tick of Dagster ends after a minute.
_LOOK_S: Final = 30.0


def is_http(path: str) -> bool:
    """Tell whether a path is an HTTP or HTTPS address."""
    return scheme(path) in {"http", "https"}


def list_addresses(urls: Sequence[str], *, link_local: bool = False) -> tuple[pafs.FileSystem, list[Listed]]:
    """Ask for the first bytes of Parquet files at HTTP(S) addresses: one request each, which tells size and validators.

    Args:
        urls: of the files, which may be signed.
        link_local: whether link-local hosts and the metadata services of clouds may be asked.

    Returns:
        A filesystem that opens these files, and the files in their order.

    Raises:
        SourceError: naming the first file that does not exist, is not to be had, is not Parquet, or whose server does
            not answer ranges.
    """
    for url in urls:
        refuse_link_local(url, link_local=link_local)
    backend = HttpBackend(link_local=link_local)
    handler = HttpFiles(backend)
    looks = run_sync(_each(urls, lambda url: _look(backend, url)))
    return pafs.PyFileSystem(handler), [handler.add(url, look) for url, look in zip(urls, looks, strict=True)]


def read_addresses(urls: Sequence[str], most: int, *, link_local: bool = False) -> list[bytes]:
    """Return the contents of small documents at HTTP(S) addresses.

    Args:
        urls: of the documents.
        most: bytes that a document may have.
        link_local: whether link-local hosts and the metadata services of clouds may be asked.

    Raises:
        SourceError: naming the first document that cannot be had, or is larger.
    """
    for url in urls:
        refuse_link_local(url, link_local=link_local)
    backend = HttpBackend(link_local=link_local)

    async def read(url: str) -> bytes:
        try:
            data = bytes((await tried(lambda: backend.read(url, 0, most + 1), _LOOK_S)).data)
        except RangeReadError as error:
            raise _explained(url, error) from error
        if len(data) > most:
            raise SourceError(f"{redact(url)}: is larger than {most // 2**20} MiB, which no document of a catalog is")
        return data

    async def read_all() -> list[bytes]:
        async with connected(backend):
            return await _each(urls, read)

    return run_sync(read_all())


def refuse_link_local(url: str, *, link_local: bool) -> None:
    """Refuse an address whose host is link-local, or hands out credentials, unless such hosts are allowed.

    Raises:
        SourceError: naming the address and the field of a spec that allows it.
    """
    if not link_local and is_link_local(host(url)):
        raise SourceError(
            f"{redact(url)}: is an address of this machine's own network, such as a cloud's metadata service; "
            "link_local: allow in the spec lets it be asked"
        )


async def _each(urls: Sequence[str], ask: Callable[[str], Awaitable[T]]) -> list[T]:
    """What is answered for each address, in order, some of them asked at once."""
    room = asyncio.Semaphore(_ASKED_AT_ONCE)

    async def one(url: str) -> T:
        async with room:
            return await ask(url)

    tasks = [asyncio.ensure_future(one(url)) for url in urls]
    try:
        return [await task for task in tasks]  # in order, so that of several failures the first is told
    finally:
        for task in tasks:
            task.cancel()


async def _look(backend: HttpBackend, url: str) -> RangeRead:
    where = redact(url)
    try:
        look = await tried(lambda: backend.read_range(url, 0, len(_MAGIC[0])), _LOOK_S)
    except RangeReadError as error:
        raise _explained(url, error) from error
    begin = bytes(look.data)
    if begin not in _MAGIC:
        shown = f"it begins with {begin!r}" if begin else "it is empty"
        raise SourceError(f"{where}: is not a Parquet file: {shown}")
    if look.size is None:
        raise SourceError(f"{where}: its server does not tell how long the file is, so its end cannot be found")
    return look


def _explained(url: str, error: RangeReadError) -> SourceError:
    """A sentence of what keeps a file of a table from being read, and what to do."""
    where = redact(url)
    match error:
        case ObjectNotFoundError():
            return SourceError(f"{where}: does not exist (HTTP {error.status}): check the address")
        case AccessDeniedError():
            return SourceError(
                f"{where}: its server refuses access (HTTP {error.status}): give an address that is signed or has a "
                "user and password, or download the file"
            )
        case LinkLocalRefusedError():
            return SourceError(str(error))
        case WrongRangeError() if error.status == 200:
            return SourceError(
                f"{where}: its server does not answer ranges, so that only the whole file could be read: download it, "
                "and give the path"
            )
    return SourceError(f"{error}: the table cannot be read")
