"""This project, end to end, without the overviews, which rasteret does not read either."""

from __future__ import annotations

from functools import partial

from harness import measure
from ours import judge, read, records

if __name__ == "__main__":
    measure(partial(read, overviews=False), judge, records)
