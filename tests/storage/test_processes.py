"""Threads that run coroutines at the same time share one loop."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import asyncio, threading, time
from rasteret_assets.storage.process import processes

make, made = processes._new_loop, []

def slowly():
    time.sleep(0.1)
    made.append(make())
    return made[-1]

async def loop():
    return asyncio.get_running_loop()

processes._new_loop = slowly
found = []
threads = [threading.Thread(target=lambda: found.append(processes.run_sync(loop()))) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(made), len(set(map(id, found))), len(found))
"""


def test_threads_that_come_first_at_the_same_time_share_one_loop() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=300, check=False)
    assert (done.stdout, done.stderr) == ("1 1 8\n", "")
