"""Read the bodies of HTTP answers as they come in: find their end, undo their encoding, keep the wanted bytes.

A server may send any number of bytes, so this module keeps no more bytes than were asked for, and reads no more than a
few times as many.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

#: Most bytes of an unneeded body that are read nevertheless, so that its connection can be used again.
DROPPED_BYTES: Final = 64 * 1024
#: Most bytes before a range that are read and dropped if a server sends the whole object instead of the range.
MOST_SKIPPED: Final = 512 * 2**20

#: Most bytes of a line that begins a chunk, and of all lines after the last chunk.
_LONGEST_LINE: Final = 8 * 1024
_LONGEST_TRAILER: Final = 32 * 1024
#: Most bytes of a body with chunks and encodings: this factor times the wanted bytes, and so many bytes more.
_ADDED: Final = (8, 64 * 1024)
_PIECE: Final = 64 * 1024
#: Most bytes, encoded and decoded, of a body that is decoded as a whole.
_LONGEST_ENCODED: Final = 8 * 2**20
_LONGEST_DECODED: Final = 32 * 2**20
_MOST_ENCODINGS: Final = 2
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_RANGE: Final = re.compile(r"\s*bytes\s+([0-9]{1,19})-([0-9]{1,19})/", re.IGNORECASE)
_CHUNK_SIZE: Final = re.compile(rb"[0-9a-fA-F]{1,16}")


class MalformedError(Exception):
    """An answer that is not HTTP, has no end, or cannot be decoded; the message is part of a sentence."""


class OverlongError(MalformedError):
    """A range with more bytes than were asked for."""


class _Sink(Protocol):
    @property
    def enough(self) -> bool: ...

    def feed(self, data: bytes) -> None: ...

    def end(self) -> None: ...


class Body:
    """Keeps the wanted bytes of a body.

    Args:
        skip: number of bytes at the beginning that are dropped.
        keep: number of bytes after these that are kept.
        exact: whether further bytes are an error; else they are dropped.
    """

    def __init__(self, skip: int, keep: int, *, exact: bool) -> None:
        self.count = 0
        self._skip, self._end, self._exact = skip, skip + keep, exact
        #: Whether all wanted bytes are there, so that further ones are dropped.
        self.enough = not exact and keep <= 0
        self._parts: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Take in decoded bytes.

        Raises:
            OverlongError: if an exact body has more bytes than wanted.
        """
        begun = self.count
        self.count += len(data)
        if self.count > self._end and self._exact:
            raise OverlongError("more bytes came than were asked for")
        if begun < self._end and self.count > self._skip:
            self._parts.append(data[max(0, self._skip - begun) : self._end - begun])
        self.enough = not self._exact and self.count >= self._end

    def end(self) -> None:
        """Do nothing at the end of the body."""

    @property
    def data(self) -> bytes:
        """The kept bytes."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)


class _Inflated:
    """Undoes ``gzip`` and ``deflate`` (RFC 9110, 8.4.1) piece by piece, so that a small body cannot become a large one.

    ``deflate`` is a zlib stream by the standard, and a bare one at some servers. A body that is called ``gzip`` but
    does not begin like gzip is passed on, because stores repeat the encoding that an upload named, right or wrong.
    """

    def __init__(self, kind: str, sink: _Sink) -> None:
        self._deflate = kind == "deflate"
        self._sink = sink
        self._front = b""
        self._stream: zlib._Decompress | None = None
        self._begun = self._plain = False

    @property
    def enough(self) -> bool:
        return self._sink.enough

    def feed(self, data: bytes) -> None:
        if self._plain:
            self._sink.feed(data)
            return
        data, self._front = self._front + data, b""
        self._begun = self._begun or bool(data)
        if self._stream is None:
            if len(data) < 2:
                self._front = data
                return
            if not self._deflate and not data.startswith(_GZIP):
                self._plain = True
                self._sink.feed(data)
                return
            wrapped = data[0] & 15 == 8 and int.from_bytes(data[:2], "big") % 31 == 0
            self._stream = zlib.decompressobj(31 if not self._deflate else 15 if wrapped else -15)
        self._inflate(self._stream, data)

    def _inflate(self, stream: zlib._Decompress, data: bytes) -> None:
        try:
            while not self._sink.enough:
                if stream.eof:
                    data = stream.unused_data or data
                    # Several gzip members in a row are one body (RFC 1952, 2.2); other bytes after them are padding.
                    if self._deflate or not data.startswith(_GZIP[:1]):
                        return
                    stream = self._stream = zlib.decompressobj(31)
                piece = stream.decompress(data, _PIECE)
                data = stream.unconsumed_tail
                if piece:
                    self._sink.feed(piece)
                if not data and len(piece) < _PIECE and not (stream.eof and stream.unused_data):
                    return
        except zlib.error:
            raise MalformedError("the body is not encoded as the answer says") from None

    def end(self) -> None:
        whole = self._plain or (self._stream is not None and self._stream.eof)
        if self._begun and not whole and not self._sink.enough:
            raise EOFError("the encoded body ends too early")
        self._sink.end()


class _DecodedAtOnce:
    """Undoes ``br`` and ``zstd`` of a whole body, because imagecodecs does not decode pieces."""

    def __init__(self, kind: str, sink: _Sink) -> None:
        self._kind, self._sink = kind, sink
        self._body = bytearray()

    @property
    def enough(self) -> bool:
        return self._sink.enough

    def feed(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > _LONGEST_ENCODED:
            raise MalformedError(f"the body is encoded ({self._kind}) and too long to be decoded")

    def end(self) -> None:
        if not self._body or (self._kind == "zstd" and not self._body.startswith(_ZSTD)):
            self._sink.feed(bytes(self._body))  # the encoding is named wrongly, as for gzip
            return
        import imagecodecs  # noqa: PLC0415  (takes long to import, and few servers need it)

        decode: Callable[..., bytes | bytearray] = (
            imagecodecs.zstd_decode if self._kind == "zstd" else imagecodecs.brotli_decode
        )
        try:
            decoded = decode(bytes(self._body), out=_LONGEST_DECODED)
        except Exception:  # noqa: BLE001  (each codec raises its own class)
            raise MalformedError(f"the body cannot be decoded ({self._kind})") from None
        self._sink.feed(bytes(decoded))
        self._sink.end()


_DECODERS: Final[Mapping[str, Callable[[str, _Sink], _Sink]]] = {
    "gzip": _Inflated, "x-gzip": _Inflated, "deflate": _Inflated, "br": _DecodedAtOnce, "zstd": _DecodedAtOnce,
}  # fmt: skip


class BodyReader:
    """Reads the body of one answer; the caller undoes the transfer coding.

    Args:
        status: of the answer.
        headers: of the answer, by lower-case name.
        start: first byte of the wanted range.
        end: end of the wanted range. A whole object is kept from ``start`` to ``end``.
        longest: most bytes in the body of a 206.

    Raises:
        MalformedError: if the body has more than two encodings, or the server sends the whole object and the range
            begins more than :data:`MOST_SKIPPED` bytes after its start.
    """

    def __init__(self, status: int, headers: Mapping[str, str], start: int, end: int, longest: int) -> None:
        if status == 206:
            self.body, most = Body(0, longest, exact=True), longest
        elif status == 200:
            if start > MOST_SKIPPED:
                raise MalformedError(
                    f"the host answers with the whole file, and byte {start} lies too far from its start"
                )
            self.body, most = Body(start, end - start, exact=False), end
        else:
            self.body, most = Body(0, 0, exact=False), 0
        factor, more = _ADDED
        self._remaining = most * factor + more
        self._sink: _Sink = self.body
        #: Whether the body is encoded, so that its length is not that of the object.
        self.encoded = False
        self._partial = status == 206
        if (
            not self.body.enough
            and (encoding := headers.get("content-encoding"))
            and not _is_as_stored(status, headers)
        ):
            # Other names (aws-chunked, utf-8) are left over from the upload of a file and mean nothing.
            kinds = [kind for part in encoding.split(",") if (kind := part.strip().lower()) in _DECODERS]
            if len(kinds) > _MOST_ENCODINGS:
                raise MalformedError(f"the body is encoded as {encoding[:40]!r}, though asked for without encoding")
            # The last encoding was applied last (RFC 9110, 8.4), so it is undone first.
            for kind in kinds:
                self._sink = _DECODERS[kind](kind, self._sink)
            self.encoded = bool(kinds)

    @property
    def enough(self) -> bool:
        """Whether all wanted bytes are there."""
        return self.body.enough

    def feed(self, data: bytes) -> None:
        """Take in bytes of the body.

        Raises:
            MalformedError: if the body is longer than wanted, or not encoded as its head says.
        """
        if not self.body.enough:
            self._sink.feed(data)

    def count_wire(self, count: int) -> None:
        """Count bytes as they came over the network, with chunks and encodings.

        Raises:
            MalformedError: if they are more than :data:`_ADDED` allows.
        """
        self._remaining -= count
        if self._remaining < 0 and not self.body.enough:
            raise MalformedError("the body is far longer than what was asked for")

    def end(self) -> None:
        """Finish decoding at the end of the body.

        Raises:
            EOFError: if the encoded content does not end with the body.
            MalformedError: if the body cannot be decoded.
        """
        if not self.body.enough:
            try:
                self._sink.end()
            except EOFError:
                if self._partial:
                    raise MalformedError("the range is a part of an encoded body") from None
                raise


def _is_as_stored(status: int, headers: Mapping[str, str]) -> bool:
    """Return whether a 206 is as long as its range, and so holds the stored bytes, whatever encoding its head names."""
    range_ = _RANGE.match(headers.get("content-range", "")) if status == 206 else None
    length = headers.get("content-length", "")
    return range_ is not None and length == str(int(range_[2]) - int(range_[1]) + 1)


class Chunks:
    """Undoes chunked transfer coding (RFC 9112, 7.1). Extensions and trailers are dropped."""

    def __init__(self) -> None:
        self.ended = False
        #: Bytes after the end of the body.
        self.rest = b""
        self._line: Callable[[bytes], None] = self._size
        self._remaining = 0
        self._trailer = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take in bytes, and yield the content in them.

        Raises:
            MalformedError: if the bytes are not chunks.
        """
        data, at = self.rest + data, 0
        while not self.ended:
            if self._remaining:
                piece = data[at : at + self._remaining]
                if not piece:
                    break
                at += len(piece)
                self._remaining -= len(piece)
                yield piece
                continue
            end = data.find(b"\n", at)
            if (end if end >= 0 else len(data)) - at > _LONGEST_LINE:
                raise MalformedError("a line of a chunked body has no end")
            if end < 0:
                break
            line, at = data[at:end].removesuffix(b"\r"), end + 1
            self._line(line)
        self.rest = data[at:]

    def _size(self, line: bytes) -> None:
        size = line.partition(b";")[0].strip()
        if not _CHUNK_SIZE.fullmatch(size):
            raise MalformedError("a chunk without a size")
        self._remaining = int(size, 16)
        self._line = self._behind if self._remaining else self._trailers

    def _behind(self, line: bytes) -> None:
        if line:
            raise MalformedError("a chunk that is longer than its size")
        self._line = self._size

    def _trailers(self, line: bytes) -> None:
        self._trailer += len(line)
        if self._trailer > _LONGEST_TRAILER:
            raise MalformedError("a chunked body whose trailer has no end")
        self.ended = not line
