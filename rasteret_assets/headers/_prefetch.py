"""Learn from the last files of a family how many bytes to read first of the next one, at its start and at its end.

The first read is a guess of where the header lies; if the guess is right, one request is enough. One program writes all
files of a band, so the guess is the place of the last headers. Most headers lie in front of the pixels. The header of a
file that was changed after it was written lies behind the pixels, and the start of the file holds only its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

#: Bytes of the first read of a new family, enough for the header of a COG with a few hundred tiles.
FIRST_PREFETCH: Final = 16 * 1024
#: Most bytes of a first read, because a second request costs less than more bytes.
LARGEST_PREFETCH: Final = 1024 * 1024
#: Bytes at the start of a file whose directory lies at its end: those of a BigTIFF's file header, which tell the place.
FILE_HEADER: Final = 16

# Reading so many bytes from the start costs less than a request of two ranges.
_CHEAP: Final = 128 * 1024
_STEP: Final = 4096
# One odd file must not change the guess for a family, but a few files must.
_MOST_VOTES: Final = 4


@dataclass(kw_only=True)
class Prefetch:
    """The first read of a family's next file.

    Args:
        head: bytes from the start, if the header lies in front of the pixels.
        tail: bytes from the end, if the header lies behind the pixels.
        tail_head: bytes from the start that are needed beside ``tail``.
        votes: number of files whose header lay behind the pixels, less those whose header lay in front of them, from
            -4 to 4.
    """

    head: int = FIRST_PREFETCH
    tail: int = 0
    tail_head: int = FILE_HEADER
    votes: int = 0

    @property
    def reads_tail(self) -> bool:
        """Whether most of the last headers lay behind the pixels."""
        return self.votes > 0

    def vote(self, *, needed_tail: bool) -> None:
        """Count a file whose header lay behind the pixels (``needed_tail``) or in front of them."""
        if needed_tail:
            self.votes = min(_MOST_VOTES, self.votes + 1)
        elif self.votes > -_MOST_VOTES:
            self.votes -= 1

    def grow(self, missing: Sequence[tuple[int, int]], size: int | None) -> bool:
        """Enlarge the next first read, because this one did not hold the whole header.

        Args:
            missing: ``(start, length)`` of the missing ranges, in bytes.
            size: bytes of the file, if the store told the size.

        Returns:
            Whether the missing ranges lie at the end of the file.
        """
        start = min(start for start, _ in missing)
        end = max(start + length for start, length in missing)
        from_end = LARGEST_PREFETCH + 1 if size is None else size - start
        if end <= LARGEST_PREFETCH and (end <= _CHEAP or end <= 2 * from_end):
            self.head = max(self.head, _whole_steps(end))
            return False
        if from_end <= LARGEST_PREFETCH:
            # An eighth more than the longest end so far, because tags of varying length lie there too.
            self.tail = max(self.tail, _whole_steps(from_end + from_end // 8))
        return from_end <= LARGEST_PREFETCH


def _whole_steps(length: int) -> int:
    return -(-length // _STEP) * _STEP
