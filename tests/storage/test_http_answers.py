"""Answers of every kind, byte for byte: valid ones are read in any form, others soon are errors, in little memory."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import socket
import time
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import imagecodecs
import pytest

from rasteret_assets.errors import (
    AccessDeniedError,
    BadAnswerError,
    HostUnreachableError,
    ObjectNotFoundError,
    RangeReadError,
    ReadTimeoutError,
    StoreUnavailableError,
    ThrottledError,
    TruncatedReadError,
    WrongRangeError,
)
from rasteret_assets.storage.http import connector as http_names
from rasteret_assets.storage.http import ranges as http_ranges
from rasteret_assets.storage.http.http_backend import HttpBackend
from rasteret_assets.storage.process.processes import run_sync
from tests.support.raw import RawServer, answering

BODY = bytes(range(100))
FILE = BODY * 50
RANGE = b"Content-Range: bytes 0-99/5000\r\n"
OK, PARTIAL, MISSING = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 206 Partial Content\r\n", b"HTTP/1.1 404 Not Found\r\n"
LENGTH, CHUNKED, NO_MORE = b"Content-Length: 100\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n"
SOUND = PARTIAL + RANGE + LENGTH + NO_MORE + BODY
#: More than any test waits for.
_AT_MOST_S = 20.0
_MEMORY = 64 * 2**20


def chunked(data: bytes, size: int = 33, extension: bytes = b"") -> bytes:
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    return b"".join(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_ranges, "IDLE_TIMEOUT_S", 0.6)


async def outcome(url: str, start: int = 0, length: int = 100, backend: HttpBackend | None = None) -> object:
    """Return the bytes that are read, or the error."""
    used = backend or HttpBackend()
    try:
        return bytes((await used.read(url, start, length)).data)
    except RangeReadError as error:
        return error
    finally:
        if backend is None:
            await used.aclose()


def ask(*answers: bytes, stays: bool = False, times: int = 1, start: int = 0) -> tuple[list[object], RawServer]:
    """Return the result of reads from a server that gives these answers in turn, and the requests that it got."""

    async def go() -> tuple[list[object], RawServer]:
        given = itertools.cycle(answers)

        async def answer(head: str, writer: asyncio.StreamWriter) -> bool:
            writer.write(next(given))
            return stays

        backend = HttpBackend()
        async with answering(answer) as server:
            try:
                return [await outcome(server.url + "/x.tif", start, backend=backend) for _ in range(times)], server
            finally:
                await backend.aclose()

    return asyncio.run(go())


ENCODED = {
    "gzip": gzip.compress(FILE), "x-gzip": gzip.compress(FILE), "deflate": zlib.compress(FILE),
    "Deflate": zlib.compress(FILE, wbits=-15), "br": bytes(imagecodecs.brotli_encode(FILE)),
    "zstd": bytes(imagecodecs.zstd_encode(FILE)), "identity": FILE, "identity, gzip": gzip.compress(FILE),
    "deflate, gzip": gzip.compress(zlib.compress(FILE)), "gzip ": gzip.compress(FILE[:700]) + gzip.compress(FILE[700:]),
}  # fmt: skip
FORMS = {
    "length": SOUND,
    "length told twice": PARTIAL + RANGE + LENGTH + LENGTH + NO_MORE + BODY,
    "length as a list": PARTIAL + RANGE + b"Content-Length: 100, 100\r\n\r\n" + BODY,
    "chunks": PARTIAL + RANGE + CHUNKED + NO_MORE + chunked(BODY),
    "chunks of a byte": PARTIAL + RANGE + CHUNKED + NO_MORE + chunked(BODY, 1, b";a=b"),
    "chunks with a trailer": PARTIAL + RANGE + CHUNKED + NO_MORE + chunked(BODY)[:-2] + b"X-A: 1\r\n\r\n",
    "until the end": PARTIAL + RANGE + NO_MORE + BODY,
    "HTTP/1.0": SOUND.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "no reason": SOUND.replace(b" Partial Content", b""),
    "lines without CR": SOUND[: -len(BODY)].replace(b"\r", b"") + BODY,
    "a value over two lines": SOUND.replace(b"bytes 0", b"bytes\r\n  0"),
    "an answer before it": b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + SOUND,
    "no size": SOUND.replace(b"/5000", b"/*"),
    "the whole object": OK + b"Content-Length: 5000\r\n\r\n" + FILE,
    "the whole object in chunks": OK + CHUNKED + NO_MORE + chunked(FILE, 999),
    "the whole object until the end": OK + NO_MORE + FILE,
    "a range that is encoded all the same": PARTIAL + RANGE + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(BODY),
    "an encoding that an upload left": SOUND.replace(RANGE, RANGE + b"Content-Encoding: aws-chunked\r\n"),
    "an encoding that is not true": SOUND.replace(RANGE, RANGE + b"Content-Encoding: gzip\r\n"),
    "an encoding that is not true, in chunks": PARTIAL + RANGE + b"Content-Encoding: gzip\r\n" + CHUNKED + NO_MORE
    + chunked(BODY, 1),
    "a whole object whose encoding is not true": OK + b"Content-Encoding: zstd\r\n\r\n" + FILE,
    "lines that are no headers": SOUND.replace(RANGE, RANGE + b"X\r\n:\r\nY:\r\n"),
} | {
    f"encoded ({kind})": OK + b"Content-Encoding: %s\r\nContent-Length: %d\r\n\r\n" % (kind.encode(), len(body)) + body
    for kind, body in ENCODED.items()
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_sound_answers_are_read_in_every_form(form: str) -> None:
    assert ask(FORMS[form])[0] == [BODY]


@pytest.mark.parametrize("form", [form for form in FORMS if "whole" in form or "encoded (" in form])
def test_a_part_of_a_whole_object_is_read_in_every_form(form: str) -> None:
    assert ask(FORMS[form], start=4950)[0] == [FILE[4950:]]


ENDLESS = {
    "404 of 20 GB": (MISSING + b"Content-Length: 20000000000\r\n\r\n", bytes(65536), ObjectNotFoundError),
    "503 in chunks": (b"HTTP/1.1 503 No\r\n" + CHUNKED + NO_MORE, b"ffff\r\n" + bytes(65535) + NO_MORE, ThrottledError),
    "403 until the end": (b"HTTP/1.1 403 No\r\n\r\n", bytes(65536), AccessDeniedError),
    "redirect to nowhere": (b"HTTP/1.1 302 No\r\nLocation: /x.tif\r\n\r\n", bytes(65536), BadAnswerError),
    "206 of 20 GB": (PARTIAL + RANGE + b"Content-Length: 20000000000\r\n\r\n", bytes(65536), WrongRangeError),
    "206 in chunks": (PARTIAL + RANGE + CHUNKED + NO_MORE, b"ffff\r\n" + bytes(65535) + NO_MORE, WrongRangeError),
    "206 until the end": (PARTIAL + RANGE + NO_MORE, bytes(65536), WrongRangeError),
    "206 in empty gzip members": (PARTIAL + RANGE + b"Content-Encoding: gzip\r\n\r\n", gzip.compress(b"") * 999,
                                  BadAnswerError),
    "multipart": (PARTIAL + b"Content-Type: multipart/byteranges; boundary=b\r\n\r\n--b\r\n", bytes(65536),
                  WrongRangeError),
    "head": (PARTIAL, b"X-A: " + b"a" * 9000 + NO_MORE, BadAnswerError),
    "header": (PARTIAL + b"X-A: ", b"a" * 65536, BadAnswerError),
    "many headers": (PARTIAL, b"a:\r\n" * 300, BadAnswerError),
    "answers before the answer": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 99, BadAnswerError),
    "chunk extension": (PARTIAL + RANGE + CHUNKED + NO_MORE + b"5;", b"a" * 65536, BadAnswerError),
    "chunks of a byte": (PARTIAL + CHUNKED + NO_MORE, b"1;" + b"a" * 8000 + b"\r\nx\r\n", BadAnswerError),
    "trailer": (PARTIAL + RANGE + CHUNKED + NO_MORE + b"0\r\n", b"X-A: " + b"a" * 8000 + NO_MORE, BadAnswerError),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n", bytes(65536), BadAnswerError),
    "bomb, br": (OK + b"Content-Encoding: br\r\n\r\n", bytes(imagecodecs.brotli_encode(bytes(10**8))), BadAnswerError),
}  # fmt: skip
BOMB = gzip.compress(bytes(300_000_000), 1)
ODD = {
    "nothing": (b"", StoreUnavailableError),
    "half a head": (SOUND[:40], TruncatedReadError),
    "half a body": (SOUND[:-50], TruncatedReadError),
    "half a chunked body": (PARTIAL + RANGE + CHUNKED + NO_MORE + chunked(BODY)[:60], TruncatedReadError),
    "half an encoded body": (OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(BODY)[:-20], TruncatedReadError),
    "half a whole object": (OK + b"Content-Length: 5000\r\n\r\n" + BODY[:50], TruncatedReadError),
    "no Content-Range": (SOUND.replace(RANGE, b""), WrongRangeError),
    "another range": (SOUND.replace(b"0-99/", b"100-199/"), WrongRangeError),
    "a longer range": (PARTIAL + b"Content-Range: bytes 0-199/5000\r\nContent-Length: 200\r\n\r\n" + FILE[:200],
                       WrongRangeError),
    "a longer range, cut": (SOUND.replace(b"0-99/", b"0-199/"), WrongRangeError),
    "a longer body": (PARTIAL + b"Content-Range: bytes 0-49/5000\r\n" + LENGTH + NO_MORE + BODY, WrongRangeError),
    "another unit": (SOUND.replace(b"bytes", b"pixels"), WrongRangeError),
    "a range backwards": (SOUND.replace(b"0-99/", b"0--1/"), WrongRangeError),
    "a range beyond the file": (SOUND.replace(b"/5000", b"/50"), WrongRangeError),
    "two ranges": (SOUND.replace(RANGE, RANGE + RANGE.replace(b"0-99", b"5-104")), WrongRangeError),
    "a refusal of what is there": (b"HTTP/1.1 416 No\r\nContent-Range: bytes */5000\r\nContent-Length: 0\r\n\r\n",
                                   WrongRangeError),
    "two lengths": (SOUND.replace(LENGTH, LENGTH + b"Content-Length: 99\r\n"), BadAnswerError),
    "a length that is none": (SOUND.replace(b": 100", b": -100"), BadAnswerError),
    "another protocol": (b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + SOUND, BadAnswerError),
    "another version": (SOUND.replace(b"HTTP/1.1", b"HTTP/3.7"), BadAnswerError),
    "another transfer coding": (PARTIAL + RANGE + b"Transfer-Encoding: gzip, chunked\r\n\r\n", BadAnswerError),
    "chunks that are none": (PARTIAL + RANGE + CHUNKED + NO_MORE + b"xyz\r\n", BadAnswerError),
    "a chunk too long": (PARTIAL + RANGE + CHUNKED + NO_MORE + b"5\r\n0123456\r\n0\r\n\r\n", BadAnswerError),
    "another encoding": (OK + b"Content-Encoding: br\r\n\r\n" + BODY, BadAnswerError),
    "damaged encoding": (OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(BODY)[:30] + BODY, BadAnswerError),
    "a range of an encoded file": (PARTIAL + RANGE + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(BODY)[:100],
                                   BadAnswerError),
    "many encodings": (OK + b"Content-Encoding: gzip, gzip, gzip\r\n\r\n" + BODY, BadAnswerError),
    "a bomb for a range": (PARTIAL + RANGE + b"Content-Encoding: gzip\r\n\r\n" + BOMB, WrongRangeError),
    "a redirect without end": (b"HTTP/1.1 302 No\r\nLocation: x.tif\r\nContent-Length: 0\r\n\r\n", BadAnswerError),
    "a redirect elsewhere": (b"HTTP/1.1 302 No\r\nLocation: file:///etc/passwd\r\n\r\n", BadAnswerError),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", RangeReadError),
    "an unconditional 304": (b"HTTP/1.1 304 Not Modified\r\n\r\n", RangeReadError),
}  # fmt: skip


async def within_bounds(read: Awaitable[object]) -> object:
    """Return the result of a read, after checking that it took neither long nor much memory."""
    tracemalloc.start()
    begun = time.monotonic()
    try:
        found = await read
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert time.monotonic() - begun < _AT_MOST_S
    assert peak < _MEMORY
    return found


def of(endless: Callable[[asyncio.StreamWriter], Awaitable[bool]], length: int = 100) -> object:
    async def go() -> object:
        async with answering(lambda head, writer: endless(writer)) as server:
            return await within_bounds(outcome(server.url + "/x.tif", 0, length))

    return asyncio.run(go())


@pytest.mark.parametrize("kind", ENDLESS)
def test_answers_without_an_end_end(kind: str) -> None:
    head, piece, error = ENDLESS[kind]

    async def endless(writer: asyncio.StreamWriter) -> bool:
        writer.write(head)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        return False

    found = of(endless)
    assert type(found) is error, found


@pytest.mark.parametrize("kind", ODD)
def test_answers_that_are_unsound_are_errors_of_their_class(kind: str) -> None:
    answer, error = ODD[kind]

    async def odd(writer: asyncio.StreamWriter) -> bool:
        writer.write(answer)
        return False

    found = of(odd)
    assert type(found) is error, found


def test_a_bomb_in_the_place_of_a_file_is_read_as_far_as_was_asked_for() -> None:
    async def bomb(writer: asyncio.StreamWriter) -> bool:
        writer.write(OK + b"Content-Encoding: gzip\r\n\r\n" + BOMB)
        return False

    assert of(bomb) == bytes(100)


@pytest.mark.parametrize("front", [b"", SOUND[:30], SOUND[:-50], PARTIAL + RANGE + CHUNKED + NO_MORE + b"5\r\n"])
def test_silence_is_a_timeout(front: bytes) -> None:
    async def silent(writer: asyncio.StreamWriter) -> bool:
        writer.write(front)
        return True

    assert type(of(silent)) is ReadTimeoutError


@pytest.mark.parametrize("body", [b"Content-Length: 5000\r\n\r\n", CHUNKED + NO_MORE + b"5\r\n", NO_MORE])
def test_an_error_status_is_reported_though_its_body_does_not_arrive(body: bytes) -> None:
    async def half(writer: asyncio.StreamWriter) -> bool:
        writer.write(MISSING + body)
        return True

    assert type(of(half)) is ObjectNotFoundError


def test_an_answer_may_take_long_as_long_as_bytes_come() -> None:
    async def steady(writer: asyncio.StreamWriter) -> bool:
        writer.write(SOUND[: -len(BODY)])
        for at in range(0, 100, 10):
            await asyncio.sleep(0.2)
            writer.write(BODY[at : at + 10])
        return True

    assert of(steady) == BODY


def test_a_head_that_drips_is_a_timeout() -> None:
    async def dripping(writer: asyncio.StreamWriter) -> bool:
        for byte in SOUND:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.05)
        return True

    assert type(of(dripping)) is ReadTimeoutError


def test_a_body_that_drips_for_long_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_ranges, "SLOW_AFTER_S", 1.0)

    async def dripping(writer: asyncio.StreamWriter) -> bool:
        writer.write(SOUND[: -len(BODY)])
        for byte in BODY:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.1)
        return True

    assert type(of(dripping)) is ReadTimeoutError


ERROR = MISSING + CHUNKED + NO_MORE + chunked(b"<Code>NoSuchKey</Code>")
KEPT = {
    "ranges": SOUND,
    "HTTP/1.0 that says so": FORMS["HTTP/1.0"].replace(RANGE, RANGE + b"Connection: keep-alive\r\n"),
    "chunked ranges": FORMS["chunks"],
    "errors in chunks": ERROR,
    "errors": MISSING + LENGTH + NO_MORE + BODY,
    "a small object": FORMS["the whole object"],
    "several tokens": SOUND.replace(RANGE, RANGE + b"Connection: foo, Keep-Alive\r\n"),
    "encoded": FORMS["encoded (gzip)"],
    "redirects": b"HTTP/1.1 302 No\r\nLocation: /x.tif\r\nContent-Length: 0\r\n\r\n",
}  # fmt: skip
CLOSED = {
    "close": SOUND.replace(RANGE, RANGE + b"Connection: close\r\n"),
    "close among others": SOUND.replace(RANGE, RANGE + b"Connection: Upgrade, Close\r\n"),
    "close on a second line": SOUND.replace(RANGE, RANGE + b"Connection: x\r\nConnection: close\r\n"),
    "HTTP/1.0": FORMS["HTTP/1.0"],
    "more bytes than announced": SOUND + b"HTTP/1.1 206",
    "bytes behind the last chunk": FORMS["chunks"] + b"x",
    "a length beside chunks": PARTIAL + RANGE + LENGTH + CHUNKED + NO_MORE + chunked(BODY),
    "a large object": OK + b"Content-Length: 5000000\r\n\r\n" + FILE * 100,
    "a large error": MISSING + b"Content-Length: 500000\r\n\r\n" + FILE,
}


@pytest.mark.parametrize("kind", KEPT)
def test_connections_that_can_be_used_again_are(kind: str) -> None:
    _, server = ask(KEPT[kind], stays=True, times=4)
    assert server.connections == 1
    assert len(server.heads) >= 4


@pytest.mark.parametrize("kind", CLOSED)
def test_connections_that_cannot_be_used_again_are_not(kind: str) -> None:
    found, server = ask(CLOSED[kind], stays=True, times=4)
    assert server.connections == 4
    assert all(one == BODY or isinstance(one, ObjectNotFoundError) for one in found)


def test_every_request_asks_for_bytes_as_they_are() -> None:
    _, server = ask(ERROR, SOUND, stays=True, times=2)
    assert server.headers("accept-encoding") == ["identity", "identity"]


def test_a_range_far_into_an_object_of_a_host_without_ranges_is_refused() -> None:
    (found,), _ = ask(OK + b"Content-Length: 9000000000\r\n\r\n", start=8_000_000_000)
    assert isinstance(found, BadAnswerError)


def addresses(monkeypatch: pytest.MonkeyPatch, *places: str) -> list[str]:
    """Give ``several.example`` these addresses, and note when it is looked up."""
    asked, look_up = [], socket.getaddrinfo

    def found(host: str, port: int, *args: Any, **kwargs: Any) -> object:
        if host != "several.example":
            return look_up(host, port, *args, **kwargs)
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, port)) for place in places]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    return asked


def read_several(port: int, host: str, *, times: int) -> tuple[list[object], float, RawServer]:
    async def go() -> tuple[list[object], float, RawServer]:
        async def answer(head: str, writer: asyncio.StreamWriter) -> bool:
            writer.write(CLOSED["close"])
            return False

        backend = HttpBackend()
        async with answering(answer, host, port) as server:
            begun = time.monotonic()
            url = f"http://several.example:{server.url.rpartition(':')[2]}/x.tif"
            try:
                found = [await outcome(url, backend=backend)]
                first = time.monotonic() - begun
                found += await asyncio.gather(*(outcome(url, backend=backend) for _ in range(times)))
            finally:
                await backend.aclose()
            return found, first, server

    return asyncio.run(go())


def test_an_address_that_does_not_answer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = addresses(monkeypatch, "127.0.0.1", "127.0.0.2")
    with socket.socket() as hole:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        port = hole.getsockname()[1]
        held = [socket.socket() for _ in range(4)]  # those who wait to be accepted; nobody else is answered
        for one in held:
            one.settimeout(0)
            one.connect_ex(("127.0.0.1", port))
        found, first, server = read_several(port, "127.0.0.2", times=20)
        for one in held:
            one.close()
    assert found == [BODY] * 21
    assert first < 5
    assert asked == ["several.example"]
    assert server.connections == 21


def test_an_address_that_refuses_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses(monkeypatch, "127.0.0.3", "127.0.0.1", "127.0.0.2")
    assert read_several(0, "127.0.0.2", times=3)[0] == [BODY] * 4


def test_names_are_looked_up_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = addresses(monkeypatch, "127.0.0.1")
    monkeypatch.setattr(http_names, "_RESOLVED_S", 0.0)
    assert read_several(0, "127.0.0.1", times=3)[0] == [BODY] * 4
    assert 2 <= len(asked) <= 4


def test_a_name_none_of_whose_addresses_answers_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = addresses(monkeypatch, "127.0.0.1", "127.0.0.2")
    for _ in range(2):
        found = asyncio.run(outcome("http://several.example:9/x.tif"))
        assert type(found) is HostUnreachableError, found
        assert "connection refused" in str(found)
    assert len(asked) == 2


@pytest.mark.parametrize("several", [False, True])
def test_the_private_loop_races_addresses_too(monkeypatch: pytest.MonkeyPatch, *, several: bool) -> None:
    # uvloop has no parameters for it.
    asked = addresses(monkeypatch, *(["127.0.0.3"] if several else []), "127.0.0.1")

    async def answer(head: str, writer: asyncio.StreamWriter) -> bool:
        writer.write(SOUND)
        return True

    async def go() -> list[object]:
        backend = HttpBackend()
        async with answering(answer) as server:
            url = f"http://several.example:{server.url.rpartition(':')[2]}/x.tif"
            try:
                return list(await asyncio.gather(*(outcome(url, backend=backend) for _ in range(9))))
            finally:
                await backend.aclose()

    assert run_sync(go()) == [BODY] * 9
    assert asked == ["several.example"]


PROXIED = {
    **{
        kind: (head, piece, error)
        for kind, (head, piece, error) in ENDLESS.items()
        if kind[:3] in {"404", "503", "206"}
    },
    "no Content-Range": (SOUND.replace(RANGE, b""), b"", WrongRangeError),
    "a bomb": (PARTIAL + RANGE + b"Content-Encoding: gzip\r\n\r\n" + BOMB, b"", WrongRangeError),
    "another encoding": (ODD["another encoding"][0], b"", BadAnswerError),
    "half a body": (SOUND[:-50], b"", TruncatedReadError),
    "an error without its page": (MISSING + b"Content-Length: 500\r\n\r\n", None, ObjectNotFoundError),
    "head": (*ENDLESS["head"][:2], StoreUnavailableError),
}


@pytest.mark.parametrize("kind", PROXIED)
def test_answers_behind_a_proxy_have_the_same_bounds(kind: str) -> None:
    head, piece, error = PROXIED[kind]

    async def endless(_: str, writer: asyncio.StreamWriter) -> bool:
        writer.write(head)
        while piece and not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        return piece is None

    async def go() -> object:
        async with answering(endless) as server:
            backend = HttpBackend(proxy=server.url)
            try:
                return await within_bounds(outcome("http://images.example/x.tif", backend=backend))
            finally:
                await backend.aclose()

    found = asyncio.run(go())
    assert type(found) is error, found


#: What aiohttp takes for no HTTP.
REFUSED_BY_AIOHTTP = {"length told twice", "length as a list", "lines that are no headers"}


@pytest.mark.parametrize("form", FORMS.keys() - REFUSED_BY_AIOHTTP)
def test_sound_answers_are_read_in_every_form_behind_a_proxy(form: str) -> None:
    async def answer(_: str, writer: asyncio.StreamWriter) -> bool:
        writer.write(FORMS[form])
        return False

    async def go() -> object:
        async with answering(answer) as server:
            backend = HttpBackend(proxy=server.url)
            try:
                return await outcome("http://images.example/x.tif", backend=backend)
            finally:
                await backend.aclose()

    assert asyncio.run(go()) == BODY


def test_a_missing_file_or_two_cost_no_more_than_others() -> None:
    # Counted in connections: each costs more than a request.
    found, server = ask(*[SOUND] * 9, ERROR, stays=True, times=100)
    assert server.connections == 1
    assert sum(isinstance(one, ObjectNotFoundError) for one in found) == 10
