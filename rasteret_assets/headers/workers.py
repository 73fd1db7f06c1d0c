"""Share hosts among the processes that fetch headers of one collection, so that together they do not ask for more.

The processes meet in one document of the workspace, ``<stages>/workers.json``: which processes fetch, and which hosts
have asked for fewer requests. Each process takes its share of the ceiling, begins with the limits that other processes
have found, and leaves a host alone for as long as the host asked any process to. The document may be lost: a process
that cannot read or write it goes on as if it were alone. Short fetches neither read nor write it.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from pydantic import BaseModel, ValidationError

from rasteret_assets.storage.hosts import LONGEST_PAUSE_S, HostState
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.conditional import ObjectTag

_log = logging.getLogger(__name__)

#: A fetch of fewer files does not read the document, because a host gets so many requests at once in any case.
FEW_FILES = 32
#: A fetch of at least so many files writes into the document when it begins; a smaller one after ``QUIET_S`` seconds.
MANY_FILES = 256
QUIET_S = 2.0
#: Seconds between two reads of the document; longer on an object store, where each costs a request or two.
_READ_ON_DISK_S: Final = 1.0
_READ_S: Final = 30.0
#: Seconds after which a process writes its entry again, and after which its entry counts as that of a dead process.
_BEAT_S: Final = 15.0
FORGOTTEN_S: Final = 100.0
#: Seconds for which the limit of a host is valid.
_LIMIT_VALID_S: Final = 600.0
_MOST_HOSTS: Final = 100
_TRIES: Final = 4


class _Worker(BaseModel):
    """A process that fetches.

    Args:
        beat: time of its last entry, in seconds since 1970.
        limits: requests at once that the process gives to hosts that count requests, by host.
    """

    beat: float
    limits: dict[str, float] = {}


class _Host(BaseModel):
    """A host that counts requests.

    Args:
        limit: requests at once that all processes together gave the host.
        until: time before which no request is sent, in seconds since 1970.
        noted: time of this entry, in seconds since 1970.
    """

    limit: float
    until: float = 0.0
    noted: float


class _Document(BaseModel):
    workers: dict[str, _Worker] = {}
    hosts: dict[str, _Host] = {}


@dataclass(frozen=True, kw_only=True)
class OtherWorkers:
    """The other processes that fetch headers of the collection, as this process last read of them.

    Args:
        workers: number of processes that fetch, with this one.
        hosts: for each host that counts requests, the requests at once that this process may give it, and the monotonic
            time before which no request is sent.
    """

    workers: int = 1
    hosts: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def state_of(self, host: str, ceiling: int) -> HostState | None:
        """Return the state of a host that asked another process for fewer requests; None for any other host."""
        if host not in self.hosts:
            return None
        limit, paused_until = self.hosts[host]
        return HostState.throttled(ceiling, limit, paused_until)


class Workers:
    """This process among those that fetch headers of a collection, from the beginning to the end of its block.

    Args:
        workspace: of the collection.
    """

    def __init__(self, workspace: Workspace) -> None:
        #: The other processes as last read; replaced as a whole, so that any thread may read it.
        self.view = OtherWorkers()
        self._workspace = workspace
        self._path = f"{workspace.stages}/workers.json"
        self._name = uuid.uuid4().hex
        self._guard = threading.Lock()
        self._woken, self._over = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._has_read = self._has_joined = self._has_news = False
        self._states: dict[int, Mapping[str, HostState]] = {}
        self._written: tuple[dict[str, Any], ObjectTag] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join()
        if self._has_joined:
            self._exchange(leave=True)

    def begin(self, files: int) -> OtherWorkers:
        """Begin a fetch of so many files; return the other processes."""
        join = files >= MANY_FILES and not self._has_joined
        if join or (files >= FEW_FILES and not self._has_read):
            self._exchange(join=join)
            with self._guard:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="rasteret-assets-workers", daemon=True)
                    self._thread.start()
        return self.view

    def tell(self, fetch: object, states: Mapping[str, HostState]) -> None:
        """Note the states of the hosts that count requests in a fetch; a new host is written at once."""
        before = self._states.get(id(fetch), {})
        self._states[id(fetch)] = states
        if states.keys() - before.keys():
            self._has_news = True
            self._woken.set()

    def end(self, fetch: object) -> None:
        """Drop the states of a fetch that has ended."""
        self._states.pop(id(fetch), None)

    def _run(self) -> None:
        self._woken.wait(QUIET_S)
        while not self._over.is_set():
            self._woken.clear()
            self._exchange(join=True)
            self._woken.wait(_READ_ON_DISK_S if self._workspace.is_local else _READ_S)

    def _exchange(self, *, join: bool = False, leave: bool = False) -> None:
        """Read the document, and write this process' entry into it if that is due."""
        self._has_read = True
        try:
            with self._guard:
                self._try_exchange(join=join, leave=leave)
        except Exception:  # noqa: BLE001  (headers can be fetched without the document)
            _log.debug("%s: cannot be read or written; fetching as if alone", self._path, exc_info=True)

    def _try_exchange(self, *, join: bool, leave: bool) -> None:
        for _ in range(_TRIES):
            found, tag = (leave and self._written) or self._workspace.read_tagged(self._path)
            self._written = None
            document, now = _parsed(found), time.time()
            mine = document.workers.get(self._name)
            is_due = mine is None or self._has_news or now - mine.beat > _BEAT_S
            document = self._renewed(document, now, leave=leave, join=join)
            if not leave:
                self.view = _view(document, self._name, now)
            if not leave and not (join and is_due):
                return
            # On a disk there is no lock, so a process reads after it wrote, and writes again if its entry is gone.
            written = document.model_dump()
            is_written, tag = self._workspace.swap_json(self._path, written, tag)
            if is_written:
                self._has_joined, self._has_news = True, False
                # Kept with its tag, so that the document need not be read before it is replaced next.
                self._written = (written, tag) if tag is not None else None
                if tag is not None or leave:
                    return

    def _renewed(self, document: _Document, now: float, *, leave: bool, join: bool) -> _Document:
        """Return the document without outdated entries, and with the entry of this process."""
        workers = {
            name: worker
            for name, worker in document.workers.items()
            if name != self._name and abs(now - worker.beat) < FORGOTTEN_S
        }
        hosts = {name: host for name, host in document.hosts.items() if abs(now - host.noted) < _LIMIT_VALID_S}
        limits, until = self._limits()
        if join and not leave:
            workers[self._name] = _Worker(beat=now, limits=limits)
        for name, limit in limits.items():
            total = limit + sum(other.limits.get(name, 0.0) for key, other in workers.items() if key != self._name)
            state = hosts.get(name)
            pause = max(now + until[name] - time.monotonic(), state.until if state else 0.0)
            hosts[name] = _Host(limit=total, until=pause, noted=now)
        newest = sorted(hosts.items(), key=lambda item: -item[1].noted)[:_MOST_HOSTS]
        return _Document(workers=workers, hosts=dict(newest))

    def _limits(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the limit of each host that counts requests, over all fetches, and the end of its pause."""
        limits: dict[str, float] = {}
        until: dict[str, float] = {}
        for states in list(self._states.values()):
            for name, state in states.items():
                limits[name] = limits.get(name, 0.0) + state.limit
                until[name] = max(until.get(name, 0.0), state.paused_until)
        return limits, until


def _parsed(found: object) -> _Document:
    """Return the document as it was read; an empty one if it has another form."""
    try:
        return _Document.model_validate(found or {})
    except ValidationError:
        return _Document()


def _view(document: _Document, name: str, now: float) -> OtherWorkers:
    count = len(document.workers.keys() | {name})
    clock = time.monotonic()
    hosts = {
        host: (max(1.0, state.limit / count), clock + min(state.until - now, LONGEST_PAUSE_S))
        for host, state in document.hosts.items()
    }
    return OtherWorkers(workers=count, hosts=hosts)
