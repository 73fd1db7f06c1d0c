"""What to ask of the next file of a family, learned from the last ones: how much of its start, how much of its end.

The first read is a guess at where a header lies, and one request if the guess is right. Files of one band are written
by one program, so the guess is what the last files turned out to need. Most headers lie in front of the pixels; those
of files that were changed after they were written lie behind them, and there the start holds only their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

#: First read of a family nothing is known about: covers the header of a COG with a few hundred tiles.
FIRST_PREFETCH: Final = 16 * 1024
#: The largest learned prefetch: beyond it a second request costs less than the bytes.
LARGEST_PREFETCH: Final = 1024 * 1024
#: The start of a file whose directory lies at its end: the 16 bytes of a BigTIFF's file header say where.
FILE_HEADER: Final = 16

# Reading this much from the start costs less than a request of two ranges.
_CHEAP: Final = 128 * 1024
_STEP: Final = 4096
# One odd file must not turn a family round; a family that has changed does so within a few files.
_MOST_VOTES: Final = 4


@dataclass(kw_only=True)
class Prefetch:
    """What the first read of a family's next file should be.

    Args:
        head: bytes from the start, where the header lies in front of the pixels.
        tail: bytes from the end, where it lies behind them.
        tail_head: bytes from the start that are needed beside ``tail``.
        votes: files whose header lay behind the pixels, less those where it did not, within narrow bounds.
    """

    head: int = FIRST_PREFETCH
    tail: int = 0
    tail_head: int = FILE_HEADER
    votes: int = 0

    @property
    def reads_tail(self) -> bool:
        """Whether the last headers lay behind the pixels."""
        return self.votes > 0

    def vote(self, *, needed_tail: bool) -> None:
        """A file's header was read, which lay behind the pixels or did not."""
        if needed_tail:
            self.votes = min(_MOST_VOTES, self.votes + 1)
        elif self.votes > -_MOST_VOTES:
            self.votes -= 1

    def lacked(self, missing: Sequence[tuple[int, int]], size: int | None) -> bool:
        """A file's first read did not hold its header: let that of the next one.

        Args:
            missing: ``(start, length)`` of what was lacking, in bytes.
            size: of the file, where the store told it.

        Returns:
            Whether it lies at the end of the file.
        """
        start = min(start for start, _ in missing)
        end = max(start + length for start, length in missing)
        from_end = LARGEST_PREFETCH + 1 if size is None else size - start
        if end <= LARGEST_PREFETCH and (end <= _CHEAP or end <= 2 * from_end):
            self.head = max(self.head, _whole_steps(end))
            return False
        if from_end <= LARGEST_PREFETCH:
            # Tags of varying length lie there too: a little more than the longest end so far.
            self.tail = max(self.tail, _whole_steps(from_end + from_end // 8))
        return from_end <= LARGEST_PREFETCH


def _whole_steps(length: int) -> int:
    return -(-length // _STEP) * _STEP
