"""The processes of a benchmark: the server on one core, each reader on another, a fresh one for every measurement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cogs import ServedFile

HERE: Final = Path(__file__).parent

#: Reader by name on the command line; those after the first are compared with it.
READERS: Final = {
    "ours": "ours.py",
    "ours-plain": "ours_plain.py",
    "ours_stage": "ours_stage.py",
    "transport": "transport.py",
    "obstore": "with_obstore.py",
    "aiohttp": "with_aiohttp.py",
    "async-tiff": "with_async_tiff.py",
    "rasterio": "with_rasterio.py",
    "rasteret": "with_rasteret.py",
    "bare": "bare.py",
}
#: Those that stand in the table, one line each.
COMPARED: Final = [name for name in READERS if name != "ours_stage"]

#: Readers that would take minutes over thousands of headers get this many.
SLOW_READERS: Final = {"rasterio": 600, "rasteret": 600}


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """Addresses of the running server and of the dead hosts beside it."""

    url: str
    silent: str
    refusing: str

    def ask(self, command: str) -> dict[str, Any]:
        """The answer of a control endpoint."""
        with urllib.request.urlopen(f"{self.url}/-/{command}") as answer:
            return json.load(answer)


@contextmanager
def running_server(files: Sequence[ServedFile], latency_ms: float) -> Iterator[RunningServer]:
    """A server of the files on the first core, until the context ends."""
    command = [sys.executable, str(HERE / "server.py"), "--latency-ms", str(latency_ms)]
    with _on_core(0):
        process = subprocess.Popen([*command, *(str(file.path) for file in files)], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        if not line:
            raise RuntimeError("the server did not start; its error is above")
        yield RunningServer(**json.loads(line))
    finally:
        process.kill()
        process.wait()


def run_reader(
    name: str, server: RunningServer, file: ServedFile, *, timeout: float = 900, **job: int | str
) -> dict[str, Any] | None:
    """The report of a reader in a fresh process on the last core; None where it did not end in ``timeout`` seconds.

    Args:
        name: of :data:`READERS`.
        server: to read from.
        file: whose copies are read.
        timeout: in seconds.
        job: fields of the readers' ``Job``.

    Raises:
        RuntimeError: if the reader failed.
    """
    job = {"url": server.url, "kind": file.kind.name, "oracle": str(file.oracle), **job}
    options = [f"--{key.replace('_', '-')}={value}" for key, value in job.items()]
    command = [_python(name), str(HERE / "readers" / READERS[name]), *options]
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH", "")]))
    settle()
    with _on_core(-1):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        return None
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise RuntimeError(f"reader {name} failed with exit code {process.returncode}; its error is above")
    return json.loads(output.splitlines()[-1])


def settle(touched_bytes: int = 2 * 2**30) -> None:
    """Leave the machine to whoever is measured next as it was left to everybody else.

    What others wrote is on its way to the disk for half a minute, and whoever writes then waits for it. And the host of
    a virtual machine gives out memory when it is first used and takes it back from one that rests: a page then costs
    ten times as much, and whether a process pays that would depend on who was measured before it. So memory is used and
    given back, as much as the next may need. Before the process starts, not before its clock does: giving back takes
    the kernel a moment too.
    """
    os.sync()
    code = f"memory = bytearray({touched_bytes}); memory[::4096] = bytes(len(memory[::4096]))"
    subprocess.run([sys.executable, "-c", code], check=True)


def missing_reader(name: str) -> str | None:
    """Why a reader cannot run here, if it cannot."""
    if name == "rasteret" and "RASTERET_PYTHON" not in os.environ:
        return "RASTERET_PYTHON names no Python that has rasteret"
    return None


def _python(reader: str) -> str:
    return os.environ["RASTERET_PYTHON"] if reader == "rasteret" else sys.executable


@contextmanager
def _on_core(index: int) -> Iterator[None]:
    """Processes started inside inherit a single core, before they count theirs to size thread pools."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[index]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
