"""Postgres, Redis and an S3 of moto's as processes of their own, from the packages of the machine."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
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
        database, broker, store = (_free_port() for _ in range(3))
        data = folder / "postgres"
        data.mkdir()
        # Postgres refuses to run as root.
        user = "postgres" if os.geteuid() == 0 else None
        if user:
            shutil.chown(data, user)
        made = [_postgres("initdb"), "-D", data, "-A", "trust", "-U", "dagster"]
        subprocess.run(made, check=True, capture_output=True, user=user, cwd="/")
        log = stack.enter_context((folder / "postgres.log").open("wb"))
        listens = ["-p", database, "-k", data, "-h", "127.0.0.1", "-c", "log_connections=on"]
        _start(stack, [_postgres("postgres"), "-D", data, *listens], user, log)
        _start(stack, [_redis(), "--port", broker, "--bind", "127.0.0.1", "--dir", folder, "--save", ""])
        _start(stack, [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", store])
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
            POSTGRES_LOG: log.name,
        }
        _once(lambda: psycopg2.connect(host="127.0.0.1", port=database, user="dagster", dbname="postgres").close())
        _once(lambda: redis.Redis(port=broker).ping())
        client = boto3.client("s3", endpoint_url=variables["AWS_ENDPOINT_URL"], region_name="us-east-1", **KEYS)
        _once(lambda: client.create_bucket(Bucket=bucket))
        client.close()
        yield variables


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _start(stack: ExitStack, command: Sequence[object], user: str | None = None, log: BinaryIO | None = None) -> None:
    told = log or subprocess.DEVNULL
    process = subprocess.Popen([str(word) for word in command], stdout=told, stderr=told, user=user, cwd="/")
    stack.callback(process.wait)
    stack.callback(process.terminate if user is None else lambda: process.send_signal(2))


def _once(works) -> None:
    """Call something that fails until its service is up."""
    end = time.monotonic() + 60
    while True:
        try:
            works()
        except Exception:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
        else:
            return
