"""The harness of all readers: reads the job from the command line, measures it, and prints one JSON line.

Standard library only, because rasteret runs in a Python of its own. A reader is warmed up with one header, so that
imports and thread pools are not counted; then the server's counters are zeroed and the clock starts.

Readers that only fetch do so through :func:`fetch_all`, which tells right bytes, wrong bytes and errors apart. Those
whose library hands over the head of an answer refuse, as any caller would, what :func:`refuse_other` refuses.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.metering import metered

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a reader is to do.

    Args:
        url: of the server.
        kind: of the files.
        headers: how many to read.
        max_concurrent: requests (or threads) in flight.
        length: bytes to fetch per file, for readers that do not parse.
        oracle: JSON file with the true tile table, for readers that check theirs.
        beside: URL of another host that holds every second file.
        first: number of the first file, so that no file is read twice.
        path: of the one file that is read again and again; "" for a file of its own each time.
        check: file that begins with the right bytes, compared with all that is fetched; "" to look at the length only.
        idle_s: seconds without a byte after which a transport is to give up.
        warm: headers read before the clock starts; 0 where one might hang.
        control: URL of the server where it can be controlled.
    """

    url: str
    control: str
    kind: str = "s2"
    headers: int = 1000
    max_concurrent: int = 300
    length: int = 16384
    oracle: str = ""
    beside: str = ""
    first: int = 1
    path: str = ""
    check: str = ""
    idle_s: float = 30.0
    warm: int = 1

    @property
    def paths(self) -> list[str]:
        """Of the files, relative to the host."""
        if self.path:
            return [self.path] * self.headers
        return [f"{self.kind}/{number}/B02.tif" for number in range(self.first, self.first + self.headers)]

    @property
    def urls(self) -> list[str]:
        """Of the files; with another host beside, its files alternate with the living host's."""
        hosts = (self.url, self.beside) if self.beside else (self.url,)
        return [f"{host}/{path}" for path in self.paths for host in hosts]


def measure(
    read: Callable[[S], T], judge: Callable[[Job, T], dict[str, Any]], given: Callable[[Job], S] = lambda job: job
) -> None:
    """Run the job of the command line and print what it took.

    Args:
        read: does the job from what it is given; timed.
        judge: says of its result how many headers are ``good`` and whatever else is to be reported; not timed.
        given: makes what the reader starts from, by default the job; not timed.
    """
    job = _job()
    if job.warm:
        read(given(replace(job, headers=job.warm, first=0, beside="")))
    material = given(job)
    result, report = metered(lambda: read(material), job.control)
    print(json.dumps({**report, **judge(job, result)}), flush=True)


async def in_flight(items: Sequence[str], work: Callable[[str], Awaitable[T]], limit: int) -> list[T]:
    """Return the results of ``work`` on every item, ``limit`` of them at a time."""
    pending = iter(items)
    results: list[T] = []

    async def worker(shared: Iterator[str]) -> None:
        for item in shared:
            results.append(await work(item))  # noqa: PERF401 - one iterator for all workers

    await asyncio.gather(*(worker(pending) for _ in range(limit)))
    return results


async def fetch_all(job: Job, items: Sequence[str], fetch: Callable[[str], Awaitable[Any]]) -> Counter[str]:
    """Count how often ``fetch`` gave ``right`` and ``wrong`` bytes of an item, and how often each error."""
    expected = _first_bytes(job.check, job.length) if job.check else b""
    pending = iter(items)
    outcomes: Counter[str] = Counter()

    async def worker(shared: Iterator[str]) -> None:
        for item in shared:
            try:
                data = memoryview(await fetch(item))
            except Exception as error:  # noqa: BLE001 - each library has its own
                outcomes[type(error).__name__] += 1
                continue
            right = data == expected if expected else len(data) == job.length
            outcomes["right" if right else "wrong"] += 1

    await asyncio.gather(*(worker(pending) for _ in range(job.max_concurrent)))
    return outcomes


def _first_bytes(path: str, count: int) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(count)


def judge_outcomes(_: Job, outcomes: Counter[str]) -> dict[str, Any]:
    """Return the part of :func:`measure`'s report that is of a reader that fetches."""
    return {"good": outcomes["right"], "outcomes": dict(outcomes)}


class RefusedError(Exception):
    """An answer that is not the range that was asked for."""


def refuse_other(status: int, content_range: str | None, job: Job) -> None:
    """Raise where the head of an answer says that it is not the range that was asked for."""
    if status != 206:
        raise RefusedError(f"HTTP {status}")
    if not (content_range or "").startswith(f"bytes 0-{job.length - 1}/"):
        raise RefusedError(f"another range: {content_range}")


_TYPES: dict[Any, Callable[[str], Any]] = {"int": int, "float": float, "str": str}


def _job() -> Job:
    parser = argparse.ArgumentParser()
    for name, kind in ((option.name, option.type) for option in fields(Job)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=_TYPES[kind], dest=name)
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    return Job(**given)
