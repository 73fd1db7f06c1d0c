"""Decide how many requests a host gets at once, how often a request is retried, and when a host is dead.

Header fetches and pixel reads treat hosts alike. A host gets more requests while it answers, fewer when it refuses and
none when it is dead: additive increase, multiplicative decrease (Chiu and Jain, 1989), per host, after a slow start
that doubles. A host that never answers occupies only the few requests that it was given at first, so the other hosts go
on at their full rate.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from rasteret_assets.errors import (
    BackendError,
    HostUnreachableError,
    RangeReadError,
    ReadTimeoutError,
    TruncatedReadError,
)

#: Requests that a host gets before it has answered any.
FIRST_LIMIT: Final = 32
#: Failures without a single answer that make a host dead for the rest of the fetch.
DEAD_AFTER: Final = 8
#: Seconds without an answer that make any host dead, if it failed or refused at least ``_DEAD_AFTER_REFUSALS`` times.
DEAD_AFTER_S = 60.0
_DEAD_AFTER_REFUSALS: Final = 64

# Faulty replicas refuse a share of requests at random, which fewer requests would not change. A host that refuses more
# than this share is overloaded.
_OVERLOADED_SHARE: Final = 0.3
_SHARE_MEMORY: Final = 1 / 32
_DECREASE: Final = 0.5
_DECREASE_WHEN_THROTTLED: Final = 0.25
# A host that states a time to wait counts requests, and refuses those above its limit, so the limit is neared slowly.
_GROWTH_WHEN_THROTTLED: Final = 1 / 8

# If a fifth of all requests fails at random, eight tries lose one header in 400 000.
_ATTEMPTS: Final = 8
# An unknown name, a refusing port or an unforeseen exception seldom passes within seconds.
_FEW_ATTEMPTS: Final = 3
#: Seconds after its first failure within which a request is tried again.
DEADLINE_S: Final = 180.0
#: Longest time to wait, in seconds, that is granted to a host: one that says "tomorrow" must not stop a build so long.
LONGEST_PAUSE_S = 60.0
_FIRST_BACKOFF_S: Final = 0.2
_LONGEST_BACKOFF_S: Final = 30.0


@dataclass(kw_only=True)
class HostState:
    """What one fetch has learned about one host.

    Args:
        ceiling: most requests that the host may get at once.
        first: requests that the host gets before it has answered any.
        limit: requests that the host gets at once now.
        active: requests (workers) that the host has now.
        answers: number of responses that were not refusals.
        failures: requests without any response since the last answer.
        refusals: failures and refusals since the last answer.
        paused_until: monotonic time before which no request is sent, because the host asked for a pause.
    """

    ceiling: int
    first: int = FIRST_LIMIT
    limit: float = 0.0
    active: int = 0
    answers: int = 0
    failures: int = 0
    refusals: int = 0
    paused_until: float = 0.0
    _slow_start: bool = True
    _growth: float = 1.0
    _refused_share: float = 0.0
    _decreased_at: float = 0.0
    _last_answer: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.limit = float(min(self.first, self.ceiling))

    @property
    def dead(self) -> bool:
        """Whether this host gets no more requests."""
        if self.refusals < DEAD_AFTER:
            return False
        if not self.answers and self.failures >= DEAD_AFTER:
            return True
        silence = time.monotonic() - self._last_answer
        return silence > (DEAD_AFTER_S if self.refusals >= _DEAD_AFTER_REFUSALS else DEADLINE_S)

    @property
    def has_room(self) -> bool:
        """Whether another request may be started."""
        return self.active < int(self.limit)

    @classmethod
    def throttled(cls, ceiling: int, limit: float, paused_until: float) -> HostState:
        """Return the state in which a fetch begins at a host that counts requests.

        Args:
            ceiling: most requests that the host may get at once.
            limit: requests at once that the host last got.
            paused_until: monotonic time before which no request is sent.
        """
        state = cls(ceiling=ceiling, first=max(1, int(limit)), paused_until=paused_until)
        state._slow_start, state._growth = False, _GROWTH_WHEN_THROTTLED
        return state

    @property
    def is_throttled(self) -> bool:
        """Whether the host has stated a time to wait, and so counts requests."""
        return self._growth != 1.0

    def for_another_fetch(self, ceiling: int, first: int = FIRST_LIMIT) -> HostState:
        """Return the state in which another fetch begins: a fresh one, unless the host counts requests."""
        if not self.is_throttled:
            return HostState(ceiling=ceiling, first=first)
        return HostState.throttled(ceiling, self.limit, self.paused_until)

    def share(self, ceiling: int, factor: float) -> None:
        """Change the limit, because the number of processes that ask the host has changed.

        Args:
            ceiling: most requests that this process may give the host at once from now on.
            factor: new share by old share. It applies to hosts that count requests; for others the ceiling does.
        """
        self.ceiling = ceiling
        limit = self.limit * factor if self.is_throttled else self.limit
        self.limit = min(float(ceiling), max(1.0, limit))

    def answered(self) -> None:
        """Count an answer and raise the limit: twofold per round trip at first, then by one, by 1/8 where throttled."""
        self.answers += 1
        self.failures = self.refusals = 0
        self._last_answer = time.monotonic()
        self._refused_share -= self._refused_share * _SHARE_MEMORY
        if self.limit < self.ceiling:
            self.limit = min(self.ceiling, self.limit + (1.0 if self._slow_start else self._growth / self.limit))

    def refused(self, started: float, retry_after: float | None) -> None:
        """Count a refusal or a missing answer, and lower the limit if the host is overloaded.

        Args:
            started: monotonic time at which the request was sent. A request sent before the last decrease of the limit
                says nothing new.
            retry_after: seconds for which the host asks for a pause.
        """
        self._slow_start = False
        self.refusals += 1
        self._refused_share += (1 - self._refused_share) * _SHARE_MEMORY
        now = time.monotonic()
        if retry_after:
            self.paused_until = max(self.paused_until, now + min(retry_after, LONGEST_PAUSE_S))
            self._growth = _GROWTH_WHEN_THROTTLED
        overloaded = retry_after is not None or self._refused_share > _OVERLOADED_SHARE
        if overloaded and started >= self._decreased_at:
            self.limit = max(1.0, self.limit * (_DECREASE if retry_after is None else _DECREASE_WHEN_THROTTLED))
            self._decreased_at = now

    def failed(self) -> None:
        """Count a request without any response; a host that has never answered gets one request fewer."""
        self.failures += 1
        if not self.answers:
            self.limit = max(1.0, self.limit - 1)

    def note(self, error: RangeReadError, started: float) -> None:
        """Count the failure ``error`` of a request that was sent at ``started`` (monotonic seconds)."""
        if not error.is_retried_at_once or isinstance(error, TruncatedReadError):
            self.answered()
            return
        if isinstance(error, HostUnreachableError | ReadTimeoutError):
            self.failed()
        self.refused(started, error.retry_after)


class HostQueue:
    """The waiting files of one host: fresh ones in order, failed ones until their next try is due.

    Args:
        ceiling: most requests that the host may get at once.
        earlier: state of the host in another fetch.
        workers: number of processes that may be asking the host, with this one.
    """

    def __init__(self, ceiling: int, earlier: HostState | None = None, workers: int = 1) -> None:
        first = max(1, FIRST_LIMIT // workers)
        learned = HostState(ceiling=ceiling, first=first) if earlier is None else earlier
        self.state = learned.for_another_fetch(ceiling, first)
        self.fresh: deque[int] = deque()
        self.retries: list[tuple[float, int]] = []

    def take(self) -> int | None:
        """Take out and return the next file to ask for; None where no file may be asked for yet."""
        now = time.monotonic()
        if self.state.paused_until > now:
            return None
        if self.retries and self.retries[0][0] <= now:
            return heapq.heappop(self.retries)[1]
        return self.fresh.popleft() if self.fresh else None

    def wait(self) -> float | None:
        """Return the seconds until :meth:`take` may return a file; None where no file waits."""
        if not self.fresh and not self.retries:
            return None
        due = 0.0 if self.fresh else self.retries[0][0]
        return max(0.0, max(due, self.state.paused_until) - time.monotonic())

    def drain(self) -> list[int]:
        """Take out and return all waiting files."""
        waiting = [*self.fresh, *(index for _, index in self.retries)]
        self.fresh.clear()
        self.retries.clear()
        return waiting


def attempts_allowed(error: RangeReadError) -> int:
    """Return how often a request may be sent in all, given its failure ``error``."""
    if not error.is_retried_at_once:
        return 1
    return _FEW_ATTEMPTS if isinstance(error, HostUnreachableError | BackendError) else _ATTEMPTS


def backoff(attempts: int, retry_after: float | None) -> float:
    """Return the seconds before the next try: those that the server asked for, else full jitter over a doubling span.

    Full jitter is the variant that spread retries best in Brooker, "Exponential Backoff And Jitter" (AWS, 2015).
    """
    if retry_after is not None:
        return min(retry_after, _LONGEST_BACKOFF_S) + random.uniform(0, 0.25)  # noqa: S311
    return random.uniform(0, min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2**attempts))  # noqa: S311
