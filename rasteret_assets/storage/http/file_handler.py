"""Files at HTTP(S) addresses as a filesystem of pyarrow.

Files are added after a first short range, and read by ranges. The ranges go over the package's own transport
(:mod:`~rasteret_assets.storage.http.http_backend`), so that redirects, proxies, users in addresses and link-local hosts
are treated as for headers, and every range says which version of the file it is of. fsspec's HTTP filesystem would
read on from a file that was replaced, and ask any host that a redirect names. A scan of a file of 87 MB in 20 row
groups takes 24 requests and 87 MB here, and 70 requests and 186 MB by fsspec (87 MB without its cache); one row group
takes 5 requests here and 13 by fsspec.
"""

from __future__ import annotations

import asyncio
import io
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final, NoReturn, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from rasteret_assets.errors import (
    FileReplacedError,
    RangeReadError,
)
from rasteret_assets.secrets import redact, without_user
from rasteret_assets.storage.addresses.urls import host
from rasteret_assets.storage.backend import RangeRead
from rasteret_assets.storage.hosts import DEADLINE_S, attempts_allowed, backoff
from rasteret_assets.storage.object_stores.listing import Listed
from rasteret_assets.storage.process.processes import run_sync, shared_loop
from rasteret_assets.storage.unchanged import IndexedFile, UnchangedReader

T = TypeVar("T")

#: Most bytes of the kept end of a file, and of all kept ends: footers are read for the schema and again by each scan.
_KEPT_TAIL: Final = 2**20
_KEPT_TAILS: Final = 32 * 2**20
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def name_of(url: str) -> str:
    """Return host and path of an address, which name the file without a query and a user."""
    rest = without_user(url).partition("://")[2].partition("?")[0].partition("#")[0]
    return f"{host(url)}/{rest.partition('/')[2]}"


class AddressFiles(pafs.FileSystemHandler):  # type: ignore[misc]  # pyarrow has no types
    """Files at HTTP(S) addresses, by names without query and user.

    A name is host and path, so that ``key=value`` folders in it count, and errors of pyarrow show nothing that grants
    access. Connections are kept from file to file, and closed after the filesystem is garbage collected.

    Args:
        backend: reads the ranges.
    """

    def __init__(self, backend: UnchangedReader) -> None:
        self._backend = backend
        self._files: dict[str, tuple[str, IndexedFile]] = {}
        self._tails = _Tails()
        weakref.finalize(self, _close, backend, os.getpid()).atexit = False

    def add(self, url: str, first: RangeRead) -> Listed:
        """Add the file at ``url`` and return it as a listing shows it.

        Args:
            url: address of the file, which may be signed.
            first: a range of the file, with its size and validators.
        """
        name = name_of(url)
        while name in self._files and self._files[name][0] != url:
            name += "~"  # because only the query tells this file from another
        self._files[name] = url, IndexedFile(first.etag, first.last_modified, first.size)
        times = _times_ns(first.last_modified)
        return Listed(path=name, size=first.size, times_ns=times, tag=first.etag, address=url)

    def open_input_file(self, path: str) -> pa.NativeFile:
        """Open a file for ranges; no request is made."""
        url, indexed = self._files[path]
        return pa.PythonFile(_HttpFile(self._backend, url, indexed, self._tails), mode="r")

    def open_input_stream(self, path: str) -> pa.NativeFile:
        """Open a file to be read from its beginning; no request is made."""
        return self.open_input_file(path)

    def get_file_info(self, paths: Sequence[str]) -> list[pafs.FileInfo]:
        """Return the sizes of files; no request is made."""
        return [self._info(path) for path in paths]

    def get_file_info_selector(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        """Return the added files below a folder, because a web server does not list its files."""
        root = selector.base_dir.rstrip("/") + "/"
        return [self._info(name) for name in self._files if name.startswith(root)]

    def _info(self, path: str) -> pafs.FileInfo:
        if path not in self._files:
            return pafs.FileInfo(path, pafs.FileType.NotFound)
        return pafs.FileInfo(path, pafs.FileType.File, size=self._files[path][1].size)

    def get_type_name(self) -> str:
        """Return the kind of the filesystem."""
        return "http"

    def normalize_path(self, path: str) -> str:
        """Return the path as it is."""
        return path

    def _refuse(self, *_args: Any, **_options: Any) -> NoReturn:
        raise OSError("files at addresses can only be read")

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = delete_file = _refuse
    move = copy_file = open_output_stream = open_append_stream = _refuse


def _close(backend: UnchangedReader, process: int) -> None:
    """Let the event loop close the connections of a backend; the garbage collector calls this and may not wait."""
    if process != os.getpid():
        return  # the connections are the parent's
    if (aclose := getattr(backend, "aclose", None)) is None:
        return  # clients of object stores close their connections themselves
    loop = shared_loop().loop
    with suppress(RuntimeError):  # the loop has ended, and its connections with it
        loop.call_soon_threadsafe(lambda: loop.create_task(aclose()))


class _Tails:
    """The ends of the files that were read last, by address: at most 1 MiB each and 32 MiB in all."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[int, bytes]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def find(self, url: str, start: int, length: int) -> bytes | None:
        """Return a range from the kept end of a file; None where the range does not lie in it."""
        with self._lock:
            begin, data = self._kept.get(url, (0, b""))
            if not data or start < begin:
                return None
            self._kept.move_to_end(url)
        return data[start - begin : start - begin + length]

    def keep(self, url: str, start: int, data: bytes) -> None:
        """Keep the end of a file, if it has at most :data:`_KEPT_TAIL` bytes."""
        if len(data) > _KEPT_TAIL:
            return
        with self._lock:
            _, before = self._kept.get(url, (0, b""))
            if len(before) >= len(data):
                return
            self._kept[url] = start, data
            self._bytes += len(data) - len(before)
            while self._bytes > _KEPT_TAILS:
                self._bytes -= len(self._kept.popitem(last=False)[1][1])


class _HttpFile(io.RawIOBase):
    """A file at an address as a Python file; each read is a range on the condition that the file is unchanged."""

    def __init__(self, backend: UnchangedReader, url: str, indexed: IndexedFile, tails: _Tails) -> None:
        super().__init__()
        self._backend, self._url, self._indexed, self._tails = backend, url, indexed, tails
        self._size = indexed.size or 0
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._size - self._place)
        length = left if size is None or size < 0 else min(size, left)
        data = self._range(self._place, length) if length else b""
        self._place += len(data)
        return data

    def _range(self, start: int, length: int) -> bytes:
        if (kept := self._tails.find(self._url, start, length)) is not None:
            return kept
        try:
            read = run_sync(
                retried(lambda: self._backend.read_unchanged(self._url, start, length, self._indexed))
            )  # fmt: skip
        except FileReplacedError as error:
            raise OSError(f"{redact(self._url)} was replaced while it was read: build again") from error
        except RangeReadError as error:
            # OSError, because pyarrow and the callers of a scan expect it of a file.
            raise OSError(str(error)) from error
        data = bytes(read.data)
        if len(data) < length:
            raise OSError(f"{redact(self._url)}: {len(data)} of {length} bytes arrived")
        if start + length == self._size:
            self._tails.keep(self._url, start, data)
        return data


def _times_ns(last_modified: str | None) -> tuple[int, ...]:
    """Return a time of a ``Last-Modified`` header or of a bucket in ns since 1970; nothing if it is not a date."""
    if not last_modified:
        return ()
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            moment = read(last_modified)
            # In whole microseconds, which a float of seconds does not hold.
            since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
        except (TypeError, ValueError, OverflowError):
            continue
        return (since // timedelta(microseconds=1) * 1000,)
    return ()


async def retried(ask: Callable[[], Awaitable[T]], within: float = DEADLINE_S) -> T:
    """Return the answer to a request, which is sent again after failures that may pass.

    Args:
        ask: sends the request.
        within: seconds after the first try in which the request is sent again.

    Raises:
        RangeReadError: if the last try failed too.
    """
    began, attempts = time.monotonic(), 0
    while True:
        attempts += 1
        try:
            return await ask()
        except RangeReadError as error:
            wait = backoff(attempts, error.retry_after)
            if attempts >= attempts_allowed(error) or time.monotonic() - began + wait > within:
                raise
            await asyncio.sleep(wait)
