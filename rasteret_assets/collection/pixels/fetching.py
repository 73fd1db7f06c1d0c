"""Fetch ranges of indexed files: repeat requests whose errors may pass, and ask each host for as much as it answers."""

from __future__ import annotations

import asyncio
import time

from rasteret_assets.errors import (
    BackendError,
    FileReplacedError,
    HostUnreachableError,
    RangeReadError,
    RasteretAssetsError,
)
from rasteret_assets.secrets import redact
from rasteret_assets.storage.addresses.urls import host
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.hosts import DEADLINE_S, HostState, attempts_allowed, backoff
from rasteret_assets.storage.unchanged import IndexedFile, as_unchanged_reader


class RangeFetcher:
    """Fetches ranges of files, and remembers for each host how it answered. Made in a running event loop.

    Args:
        backend: reads the bytes.
        max_concurrent: requests in flight at most, for each host.
    """

    def __init__(self, backend: StorageBackend, max_concurrent: int) -> None:
        self._reader = as_unchanged_reader(backend)
        self._max_concurrent = max_concurrent
        self._hosts: dict[str, HostState] = {}
        self._room = asyncio.Condition()

    async def fetch(self, href: str, start: int, length: int, indexed: IndexedFile) -> memoryview:
        """Return ``length`` bytes from ``start``; a request that fails for a passing reason is repeated.

        Requests are repeated within ``DEADLINE_S`` seconds of the first one that failed, as often as its class of error
        allows (``attempts_allowed``).

        Args:
            href: address of the file.
            start: position of the first byte.
            length: number of bytes; fewer come only where the file ends.
            indexed: etag, size and time of the file in the index.

        Raises:
            FileReplacedError: if the file is not the one that was indexed.
            HostUnreachableError: if the host gave no answer to many requests.
            RangeReadError: if the bytes cannot be read for another reason.
        """
        state = self._hosts.setdefault(
            host(href), HostState(ceiling=self._max_concurrent, first=self._max_concurrent)
        )  # fmt: skip
        attempts, deadline = 0, 0.0
        while True:
            await self._wait_for_room(state, href)
            attempts += 1
            started = time.monotonic()
            state.active += 1
            try:
                data = await self._ask(href, start, length, indexed)
            except RangeReadError as error:
                state.note(error, started)
                wait = backoff(attempts, error.retry_after)
                deadline = deadline or started + DEADLINE_S
                if attempts >= attempts_allowed(error) or started + wait > deadline:
                    raise
            else:
                state.answered()
                return data
            finally:
                state.active -= 1
                await self._tell_of_room()
            await asyncio.sleep(wait)

    async def _ask(self, href: str, start: int, length: int, indexed: IndexedFile) -> memoryview:
        try:
            return memoryview((await self._reader.read_unchanged(href, start, length, indexed)).data)
        except RasteretAssetsError:
            raise
        except Exception as error:  # a user's backend may raise anything
            where = redact(href)
            reason = str(error).replace(href, where)
            raise BackendError(f"{where}: the backend failed: {type(error).__name__}: {reason}", href=where) from error

    async def _wait_for_room(self, state: HostState, href: str) -> None:
        """Wait until the host may be asked.

        Raises:
            HostUnreachableError: if the host gave no answer to many requests.
        """
        while True:
            if state.dead:
                where, name = redact(href), host(href) or "this machine"
                raise HostUnreachableError(
                    f"{where}: given up, because {name} gave no answer to the last {state.refusals} requests",
                    href=where,
                )
            pause = state.paused_until - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            elif state.has_room:
                return
            else:
                async with self._room:
                    await self._room.wait_for(lambda: state.has_room or state.dead)

    async def _tell_of_room(self) -> None:
        async with self._room:
            self._room.notify_all()


def replaced_error(record: str, band: str, error: FileReplacedError) -> FileReplacedError:
    """Return the error for a replaced file, with the record and band whose header is out of date, and what to do."""
    return FileReplacedError(
        f"record {record!r}, band {band!r}: {error}: its header in the index does not describe it; build "
        "again with revalidate=True or force=True (rasteret-assets build --revalidate) to index the new file",
        href=error.href,
    )
