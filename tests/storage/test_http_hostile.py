"""Answers that no server should give: each is the wanted bytes or an error, and none keeps a client waiting."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rasteret_assets.errors import RangeReadError
from rasteret_assets.storage.backend import Validators
from rasteret_assets.storage.http import ranges as http_ranges
from rasteret_assets.storage.http._multipart import read_ends_of, read_parts
from rasteret_assets.storage.http.answer import HttpAnswer, interpret
from rasteret_assets.storage.http.http_backend import HttpBackend

BODY = bytes(range(100))
SOUND = (
    b'HTTP/1.1 206 Partial Content\r\nETag: "a"\r\nContent-Range: bytes 0-99/5000\r\nContent-Type: image/tiff\r\n'
    b"Content-Length: 100\r\n\r\n" + BODY
)
ODD = [
    b"", b"\r\n\r\n", b"HTTP/1.1\r\n\r\n", b"hello\n", b"\0" * 70_000, b"HTTP/1.1 206 OK\r\n" + b"x" * 70_000,
    SOUND.replace(b"206", b"\xb2\xb2\xb2"), SOUND.replace(b": 100", b": \xb2"),
    SOUND.replace(b": 100", b": 1" + b"0" * 5000),
    SOUND.replace(b": 100", b": -1"), SOUND.replace(b": 100", b": 99"), SOUND.replace(b": 100", b": 101"),
    SOUND.replace(b"0-99/5000", b"5-104/5000"), SOUND.replace(b"0-99/5000", b"0-9" + b"9" * 5000 + b"/5000"),
    SOUND.replace(b"0-99/5000", b"0-99/50"), SOUND.replace(b"206 Partial Content", b"304 Not Modified"),
    SOUND.replace(b"206 Partial Content", b"101 Switching Protocols"), SOUND.replace(b"206", b"999"),
    SOUND.replace(b"206", b"100"), SOUND.replace(b"Content-Length: 100", b"Transfer-Encoding: chunked"),
    SOUND.replace(b"Content-Length: 100", b"Content-Encoding: gzip\r\nContent-Length: 100"), SOUND + SOUND, SOUND[:60],
    SOUND.replace(b"Content-Type", b"Retry-After: 99" + b"9" * 5000 + b"\r\nContent-Type").replace(b"206", b"503"),
]  # fmt: skip


def read_all(answers: Sequence[bytes]) -> list[bytes | RangeReadError]:
    """Return the result of each answer, given by a server that takes one request per connection."""

    async def go() -> list[bytes | RangeReadError]:
        current = [b""]

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(current[0])
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        outcomes: list[bytes | RangeReadError] = []
        try:
            for current[0] in answers:
                backend = HttpBackend()
                try:
                    outcomes.append(bytes((await backend.read(f"http://{host}:{port}/x.tif", 0, 100)).data))
                except RangeReadError as error:
                    outcomes.append(error)
                finally:
                    await backend.aclose()
        finally:
            server.close()
            await server.wait_closed()
        return outcomes

    return asyncio.run(go())


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_ranges, "IDLE_TIMEOUT_S", 2.0)


def test_a_sound_answer_is_read() -> None:
    assert read_all([SOUND]) == [BODY]


def test_odd_answers_are_errors_or_the_bytes_they_announce() -> None:
    for answer, outcome in zip(ODD, read_all(ODD), strict=True):
        assert isinstance(outcome, RangeReadError) or BODY.startswith(outcome), (answer[:80], outcome)


def test_damaged_answers_are_errors_or_bytes() -> None:
    rng = random.Random(7)
    answers = []
    for _ in range(150):
        damaged = bytearray(SOUND)
        for _ in range(rng.choice([1, 2, 6])):
            damaged[rng.randrange(len(SOUND) - 100)] = rng.randrange(256)
        answers.append(bytes(damaged[: rng.choice([None, rng.randrange(len(damaged))])]))
    outcomes = read_all(answers)
    assert any(isinstance(outcome, RangeReadError) for outcome in outcomes)
    assert BODY in outcomes


PARTS = (
    b"preamble\r\n--b\r\nContent-Type: image/tiff\r\nContent-Range: bytes 0-9/1000\r\n\r\n0123456789"
    b"\r\n--b\r\ncontent-range:bytes 990-999/1000\r\n\r\nab\r\n--b\r\nc\r\n--b--\r\nepilogue"
)
MULTIPART = {"content-type": "multipart/byteranges; boundary=b"}


def test_parts_are_as_long_as_their_ranges_whatever_is_in_them() -> None:
    # The second part holds the boundary itself.
    answer = HttpAnswer(206, MULTIPART, PARTS)
    assert read_parts(answer) == ([(0, b"0123456789"), (990, b"ab\r\n--b\r\nc")], 1000)
    ends = read_ends_of(answer, 10, 10)
    assert ends is not None
    assert [(start, bytes(read.data), read.size) for start, read in ends] == [
        (0, b"0123456789", 1000), (990, b"ab\r\n--b\r\nc", 1000)
    ]  # fmt: skip
    assert read_ends_of(answer, 11, 10) is None
    assert read_ends_of(answer, 10, 11) is None


@settings(max_examples=300)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(PARTS) - 1), st.binary(max_size=30)), max_size=4),
    kind=st.sampled_from(["multipart/byteranges; boundary=b", 'multipart/byteranges;boundary="b"', "image/tiff", ""]),
)
def test_damaged_parts_are_refused_or_read(changes: list[tuple[int, bytes]], kind: str) -> None:
    body = bytearray(PARTS)
    for at, data in changes:
        body[at : at + len(data)] = data
    found = read_parts(HttpAnswer(206, {"content-type": kind}, bytes(body)))
    for start, data in found[0] if found else []:
        assert found is not None
        assert 0 <= start < start + len(data) <= found[1]


@pytest.mark.parametrize("tag", ['"a\nX-Injected: yes"', '"a\rb"', '"\0"', ""])
def test_a_tag_that_would_split_a_request_is_neither_kept_nor_sent(tag: str) -> None:
    headers = {"etag": tag, "last-modified": tag, "content-range": "bytes 0-99/100"}
    read = interpret(HttpAnswer(206, headers, BODY), "http://h/x.tif", 0, 100)
    assert (read.etag, read.last_modified) == (None, None)

    async def go() -> bytes:
        heads = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(SOUND)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        backend = HttpBackend()
        try:
            await backend.read_if_changed(f"http://{host}:{port}/x.tif", 0, 100, Validators(tag, tag))
        finally:
            await backend.aclose()
            server.close()
        return heads[0]

    head = asyncio.run(go())
    assert not any(name in head for name in (b"X-Injected", b"If-None-Match", b"If-Modified-Since"))
