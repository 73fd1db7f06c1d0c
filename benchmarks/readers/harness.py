"""What all readers share: the job on the command line, the clock around it, one JSON line with what it took.

Standard library only, because rasteret runs in a Python of its own. A reader is warmed up with one header, so that
imports and thread pools are not counted; then the server's counters are zeroed and the clock starts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

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
    """

    url: str
    kind: str = "s2"
    headers: int = 1000
    max_concurrent: int = 300
    length: int = 16384
    oracle: str = ""
    beside: str = ""
    first: int = 1

    @property
    def paths(self) -> list[str]:
        """Of the files, relative to the host."""
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
    first = replace(job, headers=1, first=0, beside="")
    read(given(first))
    material = given(job)
    _ask(job, "reset")
    cpu, start = _cpu_seconds(), time.perf_counter()
    result = read(material)
    seconds, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
    report = {"seconds": seconds, "cpu_seconds": cpu, "peak_rss": _peak_rss(), "server": _ask(job, "stats")}
    print(json.dumps({**report, **judge(job, result)}), flush=True)


async def in_flight(items: Sequence[str], work: Callable[[str], Awaitable[T]], limit: int) -> list[T]:
    """Results of ``work`` on every item, ``limit`` of them at a time."""
    pending = iter(items)
    results: list[T] = []

    async def worker(shared: Iterator[str]) -> None:
        for item in shared:
            results.append(await work(item))  # noqa: PERF401 - one iterator for all workers

    await asyncio.gather(*(worker(pending) for _ in range(limit)))
    return results


def _job() -> Job:
    parser = argparse.ArgumentParser()
    for name, kind in ((option.name, option.type) for option in fields(Job)):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int if kind == "int" else str, dest=name)
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    return Job(**given)


def _ask(job: Job, command: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{job.url}/-/{command}") as answer:
        return json.load(answer)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _peak_rss() -> int:
    """Bytes. Not ``ru_maxrss``, which a child inherits from its parent."""
    status = Path(f"/proc/{os.getpid()}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])
