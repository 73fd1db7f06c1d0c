"""Damage TIFF files in ways that no writer would, for the fuzzer.

Every damage knows where the first directory lies, by a scan that owes nothing to the parser under test.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_ODD_NUMBERS = [0, 1, 2, 3, 7, 8, 16, 255, 256, 4096, 32767, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1,
                2**62, 2**63 - 1, 2**63, 2**64 - 1]  # fmt: skip
#: Keys, codes, places and lengths that a GeoKey directory may hold.
_CODES = [*_ODD_NUMBERS[:13], 34736, 34737, 9102, 9001, 4326, 32633, 3075, 3076, *range(1, 30)]
_TAGS = [254, 256, 257, 258, 259, 262, 266, 273, 277, 279, 284, 317, 322, 323, 324, 325, 330, 338, 339, 347, 33550,
         33922, 34264, 34735, 34736, 34737, 42112, 42113]  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where a file's first directory lies, by a scan of its own."""

    order: str
    big: bool
    start: int
    entries: tuple[int, ...]

    @property
    def wide(self) -> str:
        return self.order + ("Q" if self.big else "I")


def find_directory(file: bytes) -> Place | None:
    """The first directory, where the first bytes lead to one."""
    order = {b"II": "<", b"MM": ">"}.get(file[:2])
    if order is None or len(file) < 16:
        return None
    big = struct.unpack_from(order + "H", file, 2)[0] == 43
    (start,) = struct.unpack_from(order + ("Q" if big else "I"), file, 8 if big else 4)
    if not 0 < start < len(file) - 8:
        return None
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), file, start)
    first, step = start + (8 if big else 2), 20 if big else 12
    if not 0 < count < 500 or first + count * step > len(file):
        return None
    return Place(order, big, start, tuple(range(first, first + count * step, step)))


def _put(file: bytearray, form: str, at: int, number: int) -> None:
    size = struct.calcsize(form)
    if 0 <= at <= len(file) - size:
        struct.pack_into(form, file, at, number % 2 ** (8 * size))


def _flip_bits(file: bytearray, rng: random.Random, place: Place | None) -> None:
    start, end = (place.start, place.entries[-1] + 400) if place and rng.random() < 0.8 else (0, min(len(file), 4096))
    for _ in range(rng.choice([1, 1, 2, 8])):
        if start < min(end, len(file)):
            file[rng.randrange(start, min(end, len(file)))] ^= 1 << rng.randrange(8)


def _cut(file: bytearray, rng: random.Random, place: Place | None) -> None:
    ends = [rng.randrange(len(file) + 1), rng.randrange(min(len(file), 64) + 1)]
    if place:
        ends.append(rng.choice(place.entries) + rng.randrange(20))
    del file[rng.choice(ends) :]


def _move_directory(file: bytearray, rng: random.Random, place: Place | None) -> None:
    big = place.big if place else rng.random() < 0.5
    order = place.order if place else "<"
    at = rng.choice([rng.randrange(len(file) + 1), len(file) - 1, *_ODD_NUMBERS])
    _put(file, order + ("Q" if big else "I"), 8 if big else 4, at)


def _loop_directories(file: bytearray, rng: random.Random, place: Place | None) -> None:
    if place:
        step = 20 if place.big else 12
        _put(
            file,
            place.wide,
            place.entries[-1] + step,
            rng.choice([place.start, 0, len(file), rng.choice(_ODD_NUMBERS)]),
        )
        if rng.random() < 0.3:  # a sub-directory that is the directory itself
            _put(file, place.order + "H", rng.choice(place.entries), 330)


def _damage_count(file: bytearray, rng: random.Random, place: Place | None) -> None:
    if place:
        _put(file, place.wide, rng.choice(place.entries) + 4, rng.choice([*_ODD_NUMBERS, rng.randrange(2**16)]))


def _damage_number_of_entries(file: bytearray, rng: random.Random, place: Place | None) -> None:
    if place:
        _put(file, place.order + ("Q" if place.big else "H"), place.start, rng.choice(_ODD_NUMBERS))


def _damage_type(file: bytearray, rng: random.Random, place: Place | None) -> None:
    if place:
        _put(file, place.order + "H", rng.choice(place.entries) + 2, rng.choice([*range(20), 99, 65535]))


def _damage_tag(file: bytearray, rng: random.Random, place: Place | None) -> None:
    if place:
        _put(file, place.order + "H", rng.choice(place.entries), rng.choice(_TAGS))


def _damage_value(file: bytearray, rng: random.Random, place: Place | None) -> None:
    """A value, or its place: past the end, over another value, into the header."""
    if place:
        numbers = [*_ODD_NUMBERS, len(file), len(file) - 1, place.start, rng.randrange(len(file) + 1)]
        _put(file, place.wide, rng.choice(place.entries) + (12 if place.big else 8), rng.choice(numbers))


def _swap_entries(file: bytearray, rng: random.Random, place: Place | None) -> None:
    if place:
        step = 20 if place.big else 12
        one, other = rng.choice(place.entries), rng.choice(place.entries)
        kept = rng.random() < 0.5
        first, second = file[one : one + step], file[other : other + step]
        file[other : other + step] = first
        if kept:
            file[one : one + step] = second


def _change_layout(file: bytearray, rng: random.Random, place: Place | None) -> None:
    """Another byte order, or BigTIFF's number over a classic directory, and the other way round."""
    del place
    if len(file) >= 8:
        file[:4] = rng.choice([b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"IM*\0", b"II\0*"])
        if rng.random() < 0.5:
            file[4:8] = rng.choice([b"\x08\0\0\0", b"\0\x08\0\0", b"\x10\0\0\0"])


def _damage_geokeys(file: bytearray, rng: random.Random, place: Place | None) -> None:
    """Keys, codes and measures of the GeoKey tags, where they lie outside the directory."""
    if not place:
        return
    for entry in place.entries:
        tag, kind = struct.unpack_from(place.order + "HH", file, entry)
        if tag not in (34735, 34736, 34737, 33550, 33922, 34264) or rng.random() < 0.4:
            continue
        (at,) = struct.unpack_from(place.wide, file, entry + (12 if place.big else 8))
        for _ in range(rng.choice([1, 2, 5])):
            if kind == 12:
                odd = struct.pack(
                    place.order + "d", rng.choice([0.0, -1.0, float("nan"), float("inf"), 1e308, 1e-320, 90.0])
                )
                where = at + 8 * rng.randrange(8)
                if where + 8 <= len(file):
                    file[where : where + 8] = odd
            else:
                _put(file, place.order + "H", at + 2 * rng.randrange(40), rng.choice(_CODES))


def _overwrite(file: bytearray, rng: random.Random, place: Place | None) -> None:
    del place
    if file:
        at, length = rng.randrange(len(file)), rng.randrange(1, 64)
        file[at : at + length] = rng.choice([rng.randbytes(length), bytes(length), b"\xff" * length])


MUTATIONS: Sequence[Callable[[bytearray, random.Random, Place | None], None]] = (
    _flip_bits, _cut, _move_directory, _loop_directories, _damage_count, _damage_number_of_entries, _damage_type,
    _damage_tag, _damage_value, _swap_entries, _change_layout, _damage_geokeys, _overwrite,
)  # fmt: skip


def damage(file: bytes, rng: random.Random) -> bytes:
    """A file with one to four things wrong with it."""
    damaged = bytearray(file)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 4])):
        rng.choice(MUTATIONS)(damaged, rng, find_directory(bytes(damaged)))
    return bytes(damaged)
