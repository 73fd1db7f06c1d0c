"""What every measurement starts from. Standard library only, because rasteret runs in a Python of its own."""

from __future__ import annotations

import os
import subprocess
import sys


def settle(touched_bytes: int = 2 * 2**30) -> None:
    """Leave the machine to whoever is measured now as it was left to everybody else.

    What others wrote is on its way to the disk for half a minute, and whoever writes then waits for it. And the host of
    a virtual machine gives out memory when it is first used and takes it back, within seconds, from one that rests: a
    page then costs ten times as much. So memory is used and given back, as much as may be needed; what the host has
    taken away in other places is still met now and then.
    """
    os.sync()
    code = f"memory = bytearray({touched_bytes}); memory[::4096] = bytes(len(memory[::4096]))"
    subprocess.run([sys.executable, "-c", code], check=True)
