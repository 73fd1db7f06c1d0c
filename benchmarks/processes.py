"""The processes of a benchmark: the server on one core, each reader on another, a fresh one for every measurement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
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
    "pycurl": "with_pycurl.py",
    "pycurl-thread": "with_pycurl_thread.py",
    "niquests": "with_niquests.py",
    "async-tiff": "with_async_tiff.py",
    "rasterio": "with_rasterio.py",
    "rasteret": "with_rasteret.py",
    "bare": "bare.py",
}
#: Those that stand in the table, one line each.
COMPARED: Final = [name for name in READERS if name not in {"ours_stage", "pycurl", "pycurl-thread", "niquests"}]
#: Those that fetch a range with one HTTP client and do not parse it.
TRANSPORTS: Final = ["transport", "obstore", "pycurl", "pycurl-thread", "niquests", "aiohttp"]

#: Modules of readers that the package's extras do not bring along, or that do not run everywhere.
_MODULES: Final = {"pycurl": "pycurl", "pycurl-thread": "pycurl", "niquests": "niquests"}

#: Runs a command where its first argument is mounted in the place of ``/etc/hosts``, for that process alone.
_IN_A_NAMESPACE: Final = [
    "unshare", "--map-root-user", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"'
]  # fmt: skip

#: Readers that would take minutes over thousands of headers get this many.
SLOW_READERS: Final = {"rasterio": 600, "rasteret": 600, "niquests": 1000}


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """Addresses of the running server and of dead hosts beside it; ``authority`` is the PEM file to trust for TLS."""

    url: str
    silent: str
    refusing: str
    dead_port: int
    tls: str = ""
    authority: str = ""

    def ask(self, command: str) -> dict[str, Any]:
        """Return the answer of a control endpoint."""
        with urllib.request.urlopen(f"{self.url}/-/{command}") as answer:
            return json.load(answer)


@contextmanager
def running_server(files: Sequence[ServedFile], latency_ms: float, *, tls: bool = False) -> Iterator[RunningServer]:
    """Serve files from the first core during the block; with ``tls`` also by a certificate made for the run."""
    command = [sys.executable, str(HERE / "server.py"), "--latency-ms", str(latency_ms)]
    with ExitStack() as stack:
        authority = ""
        if tls:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            authority = str(_make_certificate(folder))
            command.append(f"--certificate={folder / 'server.pem'}")
        with _on_core(0):
            process = subprocess.Popen(
                [*command, *(str(file.path) for file in files)], stdout=subprocess.PIPE, text=True
            )
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line:
                raise RuntimeError("the server did not start; its error is above")
            yield RunningServer(**json.loads(line), authority=authority)
        finally:
            process.kill()
            process.wait()


def _make_certificate(folder: Path) -> Path:
    """Write the server's key and certificate to ``server.pem``, and return the file of the authority that signed it."""
    import trustme  # noqa: PLC0415 - only needed for TLS

    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    return folder / "authority.pem"


def run_reader(
    name: str,
    server: RunningServer,
    file: ServedFile,
    *,
    timeout: float = 900,
    hosts: Path | None = None,
    touched_bytes: int = 2 * 2**30,
    **job: float | str,
) -> dict[str, Any] | None:
    """Return the report of a reader in a fresh process on the last core; None after ``timeout`` seconds.

    Args:
        name: of :data:`READERS`.
        server: to read from.
        file: whose copies are read.
        timeout: in seconds.
        hosts: file that the reader finds in the place of ``/etc/hosts``.
        touched_bytes: of :func:`settle`: more than the reader will use.
        job: fields of the readers' ``Job``; ``url`` for another address of the server.

    Raises:
        RuntimeError: if the reader failed.
    """
    job = {
        "url": server.url, "control": server.url, "kind": file.kind.name, "oracle": str(file.oracle), **job
    }  # fmt: skip
    options = [f"--{key.replace('_', '-')}={value}" for key, value in job.items()]
    command = [_python(name), str(HERE / "readers" / READERS[name]), *options]
    if hosts is not None:
        command = [*_IN_A_NAMESPACE, str(hosts), *command]
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH", "")]))
    }  # fmt: skip
    if server.authority:
        environment["SSL_CERT_FILE"] = server.authority
    settle(touched_bytes)
    with _on_core(-1):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
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
    """Bring the machine into the same state before every measurement.

    Files that earlier processes wrote are on their way to the disk for half a minute, in which writers wait. The host
    of a virtual machine gives memory when it is first used, and takes it back from a resting machine: a page then costs
    ten times as much, and whether a process pays for that would depend on the process before it. So as much memory as
    the next process may need is used and given back, before the process starts, because giving back takes the kernel a
    moment too.
    """
    os.sync()
    code = f"memory = bytearray({touched_bytes}); memory[::4096] = bytes(len(memory[::4096]))"
    subprocess.run([sys.executable, "-c", code], check=True)


def missing_reader(name: str) -> str | None:
    """Return why a reader cannot run here; None if it can."""
    if name == "rasteret" and "RASTERET_PYTHON" not in os.environ:
        return "RASTERET_PYTHON names no Python that has rasteret"
    if name in _MODULES and find_spec(_MODULES[name]) is None:
        return f"{_MODULES[name]} is not installed"
    return None


def _python(reader: str) -> str:
    return os.environ["RASTERET_PYTHON"] if reader == "rasteret" else sys.executable


@contextmanager
def _on_core(index: int) -> Iterator[None]:
    """Let processes that are started in the block inherit a single core, by which they size thread pools."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(cores)[index]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
