"""Celery workers as the examples start them, and without a service: broker and results may be folders."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parent.parent.parent
EXAMPLE = REPOSITORY / "examples" / "celery"


def folder_settings(root: Path) -> dict[str, Any]:
    """Celery's settings for a broker and results below ``root``, whose folders are made."""
    broker, results = root / "broker", root / "results"
    for folder in (broker, results):
        folder.mkdir(exist_ok=True)
    folders = {"data_folder_in": str(broker), "data_folder_out": str(broker), "control_folder": str(root / "control")}
    return {"broker_url": "filesystem://", "result_backend": f"file://{results}", "broker_transport_options": folders}


def launcher_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The section ``run_launcher`` of an instance for these settings of Celery."""
    return {
        "module": "rasteret_assets.dagster",
        "class": "WatchfulCeleryRunLauncher",
        "config": {
            "broker": settings["broker_url"],
            "backend": settings["result_backend"],
            "config_source": {"broker_transport_options": settings["broker_transport_options"]},
        },
    }


class Worker:
    """A Celery worker by the command of ``examples/celery/compose.yaml``: a process group of its own.

    Args:
        name: that Celery knows it by.
        folder: of its log, and of its module of settings: the example's, with ``settings`` over it.
        settings: as :func:`folder_settings`; without any, those of the environment.
        environment: of its processes.
    """

    def __init__(
        self, name: str, folder: Path, settings: Mapping[str, Any] | None, environment: Mapping[str, str]
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        modules = folder / "settings"
        modules.mkdir(exist_ok=True)
        written = "".join(f"{key} = {value!r}\n" for key, value in (settings or {}).items())
        (modules / "dagster_celery_config.py").write_text((EXAMPLE / "dagster_celery_config.py").read_text() + written)
        command = yaml.safe_load((EXAMPLE / "compose.yaml").read_text())["services"]["worker"]["command"]
        command = [name if word == "worker@%h" else word for word in command]
        addresses = {
            variable: str(settings[key])
            for variable, key in (("CELERY_BROKER_URL", "broker_url"), ("CELERY_RESULT_BACKEND", "result_backend"))
            if settings is not None
        }
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                # Nothing is asked of the others at the start: over folders that takes long.
                [sys.executable, "-m", *command, "--without-gossip", "--without-mingle"],
                env={**environment, **addresses, "PYTHONPATH": f"{modules}:{REPOSITORY}"}, cwd=REPOSITORY,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def is_ready(self) -> bool:
        """Whether it waits for work."""
        assert self.is_alive, self.log.read_text()
        return f"{self.name} ready" in self.log.read_text()

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """End it with all its processes at once, as a machine that fails does."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Workers:
    """Workers by name; those that were killed may be started anew.

    Args:
        count: how many.
        folder, settings, environment: as of a :class:`Worker`.
    """

    def __init__(
        self, count: int, folder: Path, settings: Mapping[str, Any] | None, environment: Mapping[str, str]
    ) -> None:
        self.count = count
        self._names = [f"worker{number}@here" for number in range(count)]
        self._of_all = (folder, settings, environment)
        self._running: dict[str, Worker] = {}

    def __getitem__(self, name: str) -> Worker:
        return self._running[name]

    def start(self) -> None:
        """Start those that do not run."""
        for name in self._names:
            if name not in self._running or not self._running[name].is_alive:
                self._running[name] = Worker(name, *self._of_all)

    @property
    def are_ready(self) -> bool:
        """Whether all wait for work."""
        return all(worker.is_ready for worker in self._running.values())

    def kill(self) -> None:
        """End all."""
        for worker in self._running.values():
            worker.kill()
