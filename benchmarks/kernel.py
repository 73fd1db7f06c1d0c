"""Ask the Linux kernel for memory and time of another process, and for the files that processes open in a folder."""

from __future__ import annotations

import ctypes
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_IN_OPEN: Final = 0x20
_IN_NONBLOCK: Final = os.O_NONBLOCK
_EVENT: Final = struct.Struct("iIII")


@dataclass(frozen=True, kw_only=True)
class Usage:
    """The time and bytes that a process used up to a moment, or between two moments.

    Args:
        wall: seconds.
        cpu: seconds of all threads, user and system.
        read: bytes that the process asked to read, from the page cache or the disk (``rchar``).
        written: bytes that the process asked to write (``wchar``).
    """

    wall: float
    cpu: float
    read: int
    written: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """Return the time and bytes that a process has used so far."""
        # The second field is a name in brackets, which may hold blanks.
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
        io = {name: int(value) for name, value in (line.split(": ") for line in lines)}
        cpu = (int(stat[11]) + int(stat[12])) / _TICKS
        return cls(wall=time.perf_counter(), cpu=cpu, read=io["rchar"], written=io["wchar"])

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(
            wall=self.wall - earlier.wall, cpu=self.cpu - earlier.cpu, read=self.read - earlier.read,
            written=self.written - earlier.written,
        )  # fmt: skip


def forget_peak(pid: int) -> int:
    """Start a process' peak of memory anew; return the bytes it holds now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _memory(pid, "VmRSS")


def peak(pid: int) -> int:
    """Return the most bytes of memory that a process held since :func:`forget_peak`."""
    return _memory(pid, "VmHWM")


def _memory(pid: int, field: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition(f"{field}:")[2].split()[0])


class OpenedFiles:
    """Notes the files of a folder, without folders below it, that any process opens, through inotify.

    Args:
        folder: is watched from now on.

    Raises:
        OSError: if the kernel refuses.
    """

    def __init__(self, folder: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(_IN_NONBLOCK)
        if self._fd < 0 or libc.inotify_add_watch(self._fd, os.fsencode(folder), _IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), f"{folder} cannot be watched")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def names(self) -> set[str]:
        """Return the names of the files that were opened since the last call."""
        found: set[str] = set()
        while True:
            try:
                events = os.read(self._fd, 1 << 20)
            except BlockingIOError:
                return found
            place = 0
            while place < len(events):
                *_, length = _EVENT.unpack_from(events, place)
                place += _EVENT.size
                # An event of the folder itself has no name.
                found.add(events[place : place + length].rstrip(b"\0").decode())
                place += length
            found.discard("")
