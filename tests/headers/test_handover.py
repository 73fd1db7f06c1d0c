"""Finished headers go to the sink beside the event loop: in order, in bounded memory, and with its own errors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from rasteret_assets.errors import WorkspaceError
from rasteret_assets.headers import fetch
from rasteret_assets.headers.fetch import fetch_headers
from rasteret_assets.headers.outcomes import HeaderOutcome, HeaderProgress, HeaderTarget
from tests.support.rasters import tiff_bytes

SMALL = tiff_bytes()


class Memory:
    """A backend with the same file at every address; the host "hung" never answers."""

    def __init__(self) -> None:
        self.asked = 0

    async def get_range(self, url: str, start: int, length: int) -> bytes:
        self.asked += 1
        await asyncio.sleep(3600 if "//hung/" in url else 0)
        return SMALL[start : start + length]

    async def get_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return [await self.get_range(url, *one) for one in ranges]


def targets(count: int, host: str = "h") -> list[HeaderTarget]:
    return [HeaderTarget(href=f"http://{host}/{number}.tif", family="B") for number in range(count)]


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "BATCH_HEADERS", 16)


@pytest.mark.parametrize("error", [WorkspaceError("the disk is full"), OSError(28, "no space"), KeyError("x")])
def test_an_exception_of_the_sink_ends_the_fetch(error: Exception) -> None:
    given = []

    def sink(indices: Sequence[int], _: Sequence[HeaderOutcome]) -> None:
        given.append(indices)
        raise error

    # A host that never answers does not keep the caller from hearing of it.
    wanted = [*targets(200), *targets(3, "hung")]
    with pytest.raises(type(error)) as raised:
        asyncio.run(asyncio.wait_for(fetch_headers(wanted, Memory(), sink, max_concurrent=20), 300))
    assert raised.value is error
    assert len(given) == 1


def test_an_exception_of_the_progress_callback_ends_the_fetch() -> None:
    def watch(_: HeaderProgress) -> None:
        raise LookupError("nobody looks")

    with pytest.raises(LookupError, match="nobody looks"):
        asyncio.run(fetch_headers(targets(3), Memory(), lambda *_: None, max_concurrent=2, progress=watch))


def test_the_event_loop_goes_on_while_headers_are_put_away() -> None:
    backend, blocked, free = Memory(), threading.Event(), threading.Event()
    groups: list[Sequence[int]] = []
    threads: set[threading.Thread] = set()

    def sink(indices: Sequence[int], _: Sequence[HeaderOutcome]) -> None:
        threads.add(threading.current_thread())
        groups.append(indices)
        blocked.set()
        assert free.wait(300)

    async def main() -> int:
        fetching = asyncio.create_task(fetch_headers(targets(2000), backend, sink, max_concurrent=10))
        await asyncio.to_thread(blocked.wait, 60)
        last = -1
        while backend.asked > last:  # until the fetch waits for the sink
            last = backend.asked
            await asyncio.sleep(0.05)
        assert not fetching.done()
        free.set()
        await fetching
        return last

    # Three groups at hand, what gathers before the fourth, and a header of every worker.
    assert asyncio.run(main()) < 8 * 16 + 10
    assert len(threads) == 1
    assert threads.isdisjoint({threading.main_thread()})
    assert [index for group in groups for index in group] == list(range(2000))


def test_an_interrupt_stores_the_finished_headers() -> None:
    kept: list[int] = []

    async def main() -> None:
        finished = asyncio.Event()
        wanted = [*targets(7), *targets(2, "hung")]
        fetching = asyncio.create_task(
            fetch_headers(
                wanted, Memory(), lambda indices, _: kept.extend(indices), max_concurrent=9,
                progress=lambda now: finished.set() if now.done == 7 else None,
            )
        )  # fmt: skip
        await finished.wait()
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching

    asyncio.run(main())
    assert sorted(kept) == list(range(7))
