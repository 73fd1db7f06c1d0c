"""libcurl in a thread with epoll around it, asked from a loop of asyncio and answering there.

Cheaper than pycurl's own asyncio multi, and what a project that keeps to libcurl would have to write itself.
"""

from __future__ import annotations

import asyncio
import math
import select
import socket
import threading
import time
from collections import Counter, deque

import pycurl
import uvloop
from harness import Job, fetch_all, judge_outcomes, measure, refuse_other
from with_pycurl import Handle


class Curling(threading.Thread):
    """The thread; futures are resolved in the loop that asked, a round of answers at once."""

    def __init__(self, job: Job, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(daemon=True)
        self.job, self.loop = job, loop
        self.asked: deque[tuple[str, asyncio.Future[bytes]]] = deque()
        self.bell, self.rung = socket.socketpair()
        self.ended = self.rings = False
        self.free: list[Handle] = []
        self.busy: dict[pycurl.Curl, tuple[Handle, asyncio.Future[bytes]]] = {}
        self.epoll = select.epoll()
        self.watched: set[int] = set()
        self.timer = math.inf

    def ask(self, url: str) -> asyncio.Future[bytes]:
        future = self.loop.create_future()
        self.asked.append((url, future))
        self.ring()
        return future

    def ring(self) -> None:
        if not self.rings:
            self.rings = True
            self.bell.send(b"!")

    def run(self) -> None:
        multi = pycurl.CurlMulti()
        multi.setopt(pycurl.M_MAXCONNECTS, 1024)
        multi.setopt(pycurl.M_SOCKETFUNCTION, self.watch)
        multi.setopt(pycurl.M_TIMERFUNCTION, self.set_timer)
        bell = self.rung.fileno()
        self.epoll.register(bell, select.EPOLLIN)
        while not self.ended:
            while self.asked:
                self.start_one(multi, *self.asked.popleft())
            # What curl asks for within 0 ms is asked for while handles are added, and done once for all of them.
            if self.timer <= time.monotonic():
                self.timer = math.inf
                multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
            self.hand_over(multi)
            if self.asked or self.timer == 0:
                continue
            wait = -1 if self.timer == math.inf else max(0.0, self.timer - time.monotonic())
            for number, events in self.epoll.poll(wait):
                if number == bell:
                    self.rung.recv(16)
                    self.rings = False
                    continue
                writable = pycurl.CSELECT_OUT if events & select.EPOLLOUT else 0
                readable = pycurl.CSELECT_IN if events & ~select.EPOLLOUT else 0
                multi.socket_action(number, readable | writable)
            self.hand_over(multi)

    def watch(self, what: int, number: int, *_: object) -> None:
        """Watch a socket as curl asks; called by curl."""
        if what == pycurl.POLL_REMOVE:
            self.watched.discard(number)
            self.epoll.unregister(number)
            return
        mask = (select.EPOLLIN if what & pycurl.POLL_IN else 0) | (select.EPOLLOUT if what & pycurl.POLL_OUT else 0)
        if number in self.watched:
            self.epoll.modify(number, mask)
        else:
            self.watched.add(number)
            self.epoll.register(number, mask)

    def set_timer(self, milliseconds: int) -> None:
        """Set the time at which curl is called without a ready socket; called by curl."""
        self.timer = math.inf if milliseconds < 0 else time.monotonic() + milliseconds / 1000 if milliseconds else 0.0

    def start_one(self, multi: pycurl.CurlMulti, url: str, future: asyncio.Future[bytes]) -> None:
        handle = self.free.pop() if self.free else Handle(self.job)
        handle.head.clear()
        handle.body.clear()
        handle.curl.setopt(pycurl.URL, url)
        self.busy[handle.curl] = handle, future
        multi.add_handle(handle.curl)

    def hand_over(self, multi: pycurl.CurlMulti) -> None:
        """Give what is answered to the loop that asked."""
        _, good, bad = multi.info_read()
        answers: list[tuple[asyncio.Future[bytes], bytes | Exception]] = []
        for curl, error in [*((curl, None) for curl in good), *((curl, pycurl.error(*why)) for curl, *why in bad)]:
            multi.remove_handle(curl)
            handle, future = self.busy.pop(curl)
            answers.append((future, error or self.bytes_of(handle)))
            self.free.append(handle)
        if answers:
            self.loop.call_soon_threadsafe(self.answer, answers)

    def bytes_of(self, handle: Handle) -> bytes | Exception:
        try:
            refuse_other(handle.curl.getinfo(pycurl.RESPONSE_CODE), handle.told_range(), self.job)
        except Exception as error:  # noqa: BLE001 - raised where it was asked for
            return error
        return handle.body[0] if len(handle.body) == 1 else b"".join(handle.body)

    def answer(self, answers: list[tuple[asyncio.Future[bytes], bytes | Exception]]) -> None:
        for future, result in answers:
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)


async def read(job: Job) -> Counter[str]:
    curling = Curling(job, asyncio.get_running_loop())
    curling.start()
    try:
        return await fetch_all(job, job.urls, curling.ask)
    finally:
        curling.ended = True
        curling.ring()


if __name__ == "__main__":
    measure(lambda job: uvloop.run(read(job)), judge_outcomes)
