"""A STAC API as many run it: stac-fastapi on pgstac, a Postgres with PostGIS, all on loopback."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import requests

from tests.support.environments import environment
from tests.support.services import free_port, once, run_postgres, start

#: What must be installed for it (.ci/nightly does so); the packages of Python go to an environment of their own.
INSTALL = "apt-get install postgresql-postgis"
REQUIREMENTS = ["stac-fastapi-pgstac==7.2.0", "pypgstac[psycopg]==0.10.0", "uvicorn==0.54.0"]

_ASKED = re.compile(r'"([A-Z]+) (\S+) HTTP/1\.1" (\d+)')


class PgStac:
    """A STAC API whose items a test changes as it likes.

    Args:
        python: of an environment that has the API.
        folder: for files.
        port: of a Postgres with the schema of pgstac.
    """

    def __init__(self, python: str, folder: Path, port: int) -> None:
        self._bin = Path(python).parent
        self._folder = folder
        self._log = folder / "api.log"
        self._database = {
            "PGUSER": "dagster", "PGPASSWORD": "none", "PGHOST": "127.0.0.1", "PGPORT": str(port),
            "PGDATABASE": "postgres",
        }  # fmt: skip
        self._dsn = f"postgresql://dagster@127.0.0.1:{port}/postgres"
        # The same one whenever it runs: its address is in the links of items.
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._pypgstac("migrate")

    @property
    def requests(self) -> list[tuple[str, str, int]]:
        """Method, path and status of every request so far, as the server notes them."""
        return [(method, path, int(status)) for method, path, status in _ASKED.findall(self._log.read_text())]

    @contextmanager
    def running(self, extensions: str | None = None) -> Iterator[None]:
        """Run the API as long as the block does.

        Args:
            extensions: names of those that it has, all when omitted.
        """
        variables = {**self._database, "ENABLE_TRANSACTIONS_EXTENSIONS": "TRUE"}
        if extensions is not None:
            variables["ENABLED_EXTENSIONS"] = extensions
        command = [self._bin / "uvicorn", "--factory", "stac_fastapi.pgstac.app:create_app", "--port", self._port]
        with ExitStack() as stack, self._log.open("ab") as log:
            start(stack, command, log=log, variables=variables)
            once(lambda: requests.get(f"{self.url}/_mgmt/ping", timeout=5).raise_for_status())
            yield

    def put_collection(self, collection: Mapping[str, Any]) -> None:
        """Add a collection, or replace it."""
        self._load("collections", [collection])

    def put(self, items: Iterable[Mapping[str, Any]]) -> None:
        """Add items, or replace those that have their names."""
        self._load("items", items)

    def delete(self, item: Mapping[str, Any]) -> None:
        """Delete an item by the API's transactions."""
        path = f"{self.url}/collections/{item['collection']}/items/{item['id']}"
        requests.delete(path, timeout=30).raise_for_status()

    def set_counts(self, how: str) -> None:
        """Say whether answers tell ``numberMatched``: ``on``, ``auto`` (an estimate for many) or ``off``."""
        connection = psycopg2.connect(self._dsn)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute("UPDATE pgstac.pgstac_settings SET value = %s WHERE name = 'context'", [how])
        finally:
            connection.close()

    def _load(self, table: str, documents: Iterable[Mapping[str, Any]]) -> None:
        file = self._folder / f"{table}.ndjson"
        file.write_text("".join(f"{json.dumps(document)}\n" for document in documents))
        self._pypgstac("load", table, str(file), "--method", "upsert")

    def _pypgstac(self, *words: str) -> None:
        command = [str(self._bin / "pypgstac"), *words, "--dsn", self._dsn]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self._folder)
        assert done.returncode == 0, done.stderr


@contextmanager
def serve_pgstac() -> Iterator[PgStac]:
    """A database for a STAC API as long as the block runs; a test is skipped where the API cannot be installed."""
    python = environment("stac-fastapi-pgstac-7.2.0", REQUIREMENTS)
    with ExitStack() as stack:
        # Not below pytest's folders, which the user of Postgres may not enter.
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pgstac-", ignore_cleanup_errors=True))
        port, _ = run_postgres(stack, Path(folder))
        yield PgStac(python, Path(folder), port)
