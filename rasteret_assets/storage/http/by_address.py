"""Read Parquet files and documents of record tables at HTTP(S) addresses, with errors that say what to do."""

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
from rasteret_assets.storage.addresses.link_local import is_link_local
from rasteret_assets.storage.addresses.urls import host, scheme
from rasteret_assets.storage.backend import RangeRead
from rasteret_assets.storage.http.file_handler import AddressFiles, retried
from rasteret_assets.storage.http.http_backend import HttpBackend
from rasteret_assets.storage.object_stores.listing import Listed
from rasteret_assets.storage.process.connections import connected
from rasteret_assets.storage.process.processes import run_sync

T = TypeVar("T")

#: First bytes of a Parquet file; the second four begin a file with an encrypted footer.
_MAGIC: Final = (b"PAR1", b"PARE")
#: Files that are asked for at once.
_ASKED_AT_ONCE: Final = 16
#: Seconds after its first failure within which a request is tried again, because a tick of Dagster ends after 60 s.
_RETRIED_FOR_S: Final = 30.0


def is_http(path: str) -> bool:
    """Return whether a path is an HTTP or HTTPS address."""
    return scheme(path) in {"http", "https"}


def list_addresses(
    urls: Sequence[str], backend: HttpBackend, *, link_local: bool = False
) -> tuple[pafs.FileSystem, list[Listed]]:
    """Ask for the first bytes of Parquet files at HTTP(S) addresses: one request each, which tells size and validators.

    Args:
        urls: addresses of the files, which may be signed.
        backend: asks for the files, with headers and tokens.
        link_local: whether link-local hosts and the metadata services of clouds may be asked.

    Returns:
        A filesystem that opens these files, and the files in the order of ``urls``.

    Raises:
        SourceError: naming the first file that does not exist, cannot be read, is not Parquet, or whose server does not
            answer ranges.
    """
    for url in urls:
        refuse_link_local(url, link_local=link_local)
    handler = AddressFiles(backend)
    firsts = run_sync(_each(urls, lambda url: _read_first(backend, url)))
    return pafs.PyFileSystem(handler), [handler.add(url, first) for url, first in zip(urls, firsts, strict=True)]


def read_addresses(urls: Sequence[str], most: int, backend: HttpBackend, *, link_local: bool = False) -> list[bytes]:
    """Return the contents of small documents at HTTP(S) addresses.

    Args:
        urls: of the documents.
        most: largest size of a document in bytes.
        backend: asks for the documents, with headers and tokens.
        link_local: whether link-local hosts and the metadata services of clouds may be asked.

    Raises:
        SourceError: naming the first document that cannot be read, or is larger than ``most``.
    """
    for url in urls:
        refuse_link_local(url, link_local=link_local)

    async def read(url: str) -> bytes:
        try:
            data = bytes((await retried(lambda: backend.read(url, 0, most + 1), _RETRIED_FOR_S)).data)
        except RangeReadError as error:
            raise _explained(url, error, backend) from error
        if len(data) > most:
            raise SourceError(
                f"{redact(url)}: is larger than {most // 2**20} MiB, so it is not a document of a catalog"
            )
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
    """Return the results of ``ask`` on each address, in order; at most :data:`_ASKED_AT_ONCE` run at once."""
    room = asyncio.Semaphore(_ASKED_AT_ONCE)

    async def one(url: str) -> T:
        async with room:
            return await ask(url)

    tasks = [asyncio.ensure_future(one(url)) for url in urls]
    try:
        return [await task for task in tasks]  # in order, so that of several failures the first is raised
    finally:
        for task in tasks:
            task.cancel()


async def _read_first(backend: HttpBackend, url: str) -> RangeRead:
    where = redact(url)
    try:
        first = await retried(lambda: backend.read_range(url, 0, len(_MAGIC[0])), _RETRIED_FOR_S)
    except RangeReadError as error:
        raise _explained(url, error, backend) from error
    begin = bytes(first.data)
    if begin not in _MAGIC:
        shown = f"it begins with {begin!r}" if begin else "it is empty"
        raise SourceError(f"{where}: is not a Parquet file: {shown}")
    if first.size is None:
        raise SourceError(f"{where}: its server does not tell how long the file is, so its end cannot be found")
    return first


def _explained(url: str, error: RangeReadError, backend: HttpBackend) -> SourceError:
    """Return the error to raise for a file of a table that cannot be read, with what to do about it."""
    where = redact(url)
    match error:
        case ObjectNotFoundError():
            return SourceError(f"{where}: does not exist (HTTP {error.status}): check the address")
        case AccessDeniedError() if not backend.signs(url):
            return SourceError(
                f"{where}: its server refuses access (HTTP {error.status}): say who opens the table by "
                "credentials: in its declaration, give an address that is signed or has a user and password, or "
                "download the file"
            )
        case LinkLocalRefusedError():
            return SourceError(str(error))
        case WrongRangeError() if error.status == 200:
            return SourceError(
                f"{where}: its server does not answer ranges, so that only the whole file could be read: download it, "
                "and give the path"
            )
    return SourceError(f"{error}: the table cannot be read")
