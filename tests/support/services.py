"""Postgres, Redis and an S3 of moto's as processes of their own, from the packages of the machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import boto3
import psycopg2
import redis

from tests.support.s3 import KEYS

#: What must be installed for them: by ``apt-get install postgresql redis-server`` (.ci/nightly does so).
INSTALL = "apt-get install postgresql redis-server"

#: Names the file in which Postgres notes its connections, with the application that each says it is (``PGAPPNAME``).
POSTGRES_LOG = "POSTGRES_LOG"


def missing() -> list[str]:
    """Programs that are not installed."""
    return [name for name, found in (("postgres", _postgres("initdb")), ("redis-server", _redis())) if not found]


def _redis() -> str | None:
    return shutil.which("redis-server")


def _postgres(program: str) -> str | None:
    """A program of the newest Postgres; Debian keeps them out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"))
    return str(found[-1]) if found else shutil.which(program)


@contextmanager
def services(bucket: str) -> Iterator[dict[str, str]]:
    """Run all three until the block ends; yield the variables that lead to them, and to an empty bucket."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="services-", ignore_cleanup_errors=True)))
        folder.chmod(0o755)
        broker, store = free_port(), free_port()
        database, log = run_postgres(stack, folder, "log_connections=on")
        start(stack, [_redis(), "--port", broker, "--bind", "127.0.0.1", "--dir", folder, "--save", ""])
        start(stack, [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", store])
        variables = {
            "DAGSTER_POSTGRES_URL": f"postgresql+psycopg2://dagster@127.0.0.1:{database}/postgres",
            "CELERY_BROKER_URL": f"redis://127.0.0.1:{broker}/0",
            "CELERY_RESULT_BACKEND": f"redis://127.0.0.1:{broker}/1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{store}",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": KEYS["aws_access_key_id"],
            "AWS_SECRET_ACCESS_KEY": KEYS["aws_secret_access_key"],
            "DAGSTER_LOG_BUCKET": bucket,
            POSTGRES_LOG: str(log),
        }
        once(lambda: redis.Redis(port=broker).ping())
        client = boto3.client("s3", endpoint_url=variables["AWS_ENDPOINT_URL"], region_name="us-east-1", **KEYS)
        once(lambda: client.create_bucket(Bucket=bucket))
        client.close()
        yield variables


def run_postgres(stack: ExitStack, folder: Path, *settings: str) -> tuple[int, Path]:
    """Run a Postgres with an empty database ``postgres`` of the user ``dagster`` until the stack ends.

    Args:
        stack: that ends it.
        folder: for its data and its log.
        settings: such as ``log_connections=on``.

    Returns:
        Its port on loopback, and the file that it logs to.
    """
    folder.chmod(0o755)
    data, log, port = folder / "postgres", folder / "postgres.log", free_port()
    data.mkdir()
    # Postgres refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    if user:
        shutil.chown(data, user)
    made = [_postgres("initdb"), "-D", data, "-A", "trust", "-U", "dagster", "-E", "UTF8"]
    subprocess.run(made, check=True, capture_output=True, user=user, cwd="/")
    told = [word for setting in settings for word in ("-c", setting)]
    command = [_postgres("postgres"), "-D", data, "-p", port, "-k", data, "-h", "127.0.0.1", *told]
    start(stack, command, user, stack.enter_context(log.open("wb")))
    once(lambda: psycopg2.connect(host="127.0.0.1", port=port, user="dagster", dbname="postgres").close())
    return port, log


def postgis_is_missing() -> bool:
    """Whether the newest Postgres is not there, or has no PostGIS."""
    program = _postgres("initdb")
    if program is None:
        return True
    shared = Path("/usr/share/postgresql") / Path(program).resolve().parent.parent.name
    return not (shared / "extension" / "postgis.control").is_file()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start(
    stack: ExitStack,
    command: Sequence[object],
    user: str | None = None,
    log: BinaryIO | None = None,
    variables: Mapping[str, str] | None = None,
) -> None:
    """Run a program until the stack ends.

    Args:
        stack: that ends it.
        command: the program and its arguments.
        user: to run it as.
        log: takes what it says.
        variables: of its environment, over those of the tests.
    """
    told = log or subprocess.DEVNULL
    process = subprocess.Popen(
        [str(word) for word in command],
        stdout=told,
        stderr=told,
        user=user,
        cwd="/",
        env={**os.environ, **(variables or {})},
    )
    stack.callback(process.wait)
    stack.callback(process.terminate if user is None else lambda: process.send_signal(2))


def once(works: Callable[[], object]) -> None:
    """Call something that fails until its service is up."""
    end = time.monotonic() + 300
    while True:
        try:
            works()
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return
