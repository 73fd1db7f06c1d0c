"""Start programs that SIGINT interrupts, however the tests themselves were started."""

from __future__ import annotations

import sys
from collections.abc import Sequence

# A shell lets programs that it starts in the background ignore SIGINT, and their children inherit that.
_START = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


def interruptible(command: Sequence[str]) -> list[str]:
    """Return a command that runs ``command``, a program by its path and its arguments, with SIGINT as usual."""
    return [sys.executable, "-c", _START, *command]
