"""Measure what work in this process takes: time, processor time, peak memory and requests.

Standard library only, because rasteret runs in a Python of its own.
"""

from __future__ import annotations

import json
import os
import resource
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def metered(work: Callable[[], T], control: str) -> tuple[T, dict[str, Any]]:
    """Return the result of ``work`` and a report of the time, the memory and the requests that it took.

    Args:
        work: the work, whose requests go to the server at ``control``.
        control: URL of the server, whose counters are zeroed before.

    Returns:
        The result, and ``seconds``, ``cpu_seconds``, ``peak_rss`` (bytes) and the counters of the ``server``.
    """
    _ask(control, "reset")
    cpu, start = _cpu_seconds(), time.perf_counter()
    result = work()
    seconds, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
    return result, {
        "seconds": seconds, "cpu_seconds": cpu, "peak_rss": peak_rss(), "server": _ask(control, "stats")
    }  # fmt: skip


def peak_rss() -> int:
    """Return the largest memory of this process so far, in bytes.

    Not ``ru_maxrss``, which a child inherits from its parent.
    """
    status = Path(f"/proc/{os.getpid()}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def _ask(control: str, command: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{control}/-/{command}") as answer:
        return json.load(answer)


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
