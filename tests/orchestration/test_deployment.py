"""The image, the compose file and the chart's values fit each other and the programs they start.

Neither a Docker daemon nor a cluster is at hand: everything is held against Dagster's, Celery's and Kubernetes' own
types instead. The workers' command and the settings beside it run in ``tests/e2e/test_celery.py``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner
from dagster._cli import create_dagster_cli
from dagster._core.instance.config import dagster_instance_config
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon.cli import create_dagster_daemon_cli
from dagster_webserver.cli import dagster_webserver

from tests.orchestration.examples import EXAMPLES, SETTINGS, on_sqlite

ROOT = EXAMPLES.parent
CELERY = EXAMPLES / "celery"
COMPOSE: dict[str, Any] = yaml.safe_load((CELERY / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
VALUES: dict[str, Any] = yaml.safe_load((EXAMPLES / "kubernetes" / "values.yaml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
#: Of the image, by name.
VARIABLES = dict(re.findall(r"\b([A-Z_]+)=(\S+)", re.findall(r"^ENV ((?:.*\\\n)*.*)$", DOCKERFILE, re.MULTILINE)[0]))
WORKDIR = re.findall(r"^WORKDIR (\S+)", DOCKERFILE, re.MULTILINE)[-1]

CLIS = {
    "dagster": create_dagster_cli(),
    "dagster-daemon": create_dagster_daemon_cli(),
    "dagster-webserver": dagster_webserver,
}


def mounts(service: str) -> dict[str, str]:
    """Return the folders and files of the examples by their path in a service's container."""
    volumes = [re.sub(r"\$\{COLLECTIONS:-(.+)\}", r"\1", volume) for volume in SERVICES[service]["volumes"]]
    return {volume.split(":")[1]: volume.split(":")[0] for volume in volumes if volume.endswith(":ro")}


def test_the_image_is_made_of_files_that_are_there_and_sent() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    files = {name for line in copied for name in line.split()}
    assert files == {name.removeprefix("!") for name in ignored if name.startswith("!")}
    assert all((ROOT / name).exists() for name in files)
    assert "*" in ignored
    # The project's metadata names files too, which an installation needs.
    metadata = (ROOT / "pyproject.toml").read_text()
    named = re.findall(r'^readme = "(.+)"', metadata, re.MULTILINE) + re.findall(
        r'license-files = \["(.+)"\]', metadata
    )
    assert set(named) <= files


def test_the_image_installs_extras_that_exist() -> None:
    (extras,) = re.findall(r'"\.\[(.+)\]"', DOCKERFILE)
    metadata = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", metadata, re.MULTILINE) for extra in extras.split(","))


def test_the_image_runs_as_a_user_who_may_write_where_dagster_does() -> None:
    assert re.search(r"^USER 1000$", DOCKERFILE, re.MULTILINE)
    owned = re.findall(r"chown dagster (.+)$", DOCKERFILE, re.MULTILINE)[0].split()
    assert {VARIABLES["DAGSTER_HOME"], VARIABLES["TMPDIR"]} == set(owned)
    assert f"VOLUME {VARIABLES['TMPDIR']}\n" in DOCKERFILE


def commands() -> list[list[str]]:
    (default,) = re.findall(r"^CMD (\[.+\])$", DOCKERFILE, re.MULTILINE)
    chart = [
        "dagster",
        "code-server",
        "start",
        "-p",
        "3030",
        *VALUES["dagster-user-deployments"]["deployments"][0]["codeServerArgs"],
    ]
    return [json.loads(default), chart, *(SERVICES[name]["command"] for name in OURS if name != "worker")]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_commands_are_programs_with_these_options(command: list[str]) -> None:
    # Options are parsed before help is shown.
    shown = CliRunner().invoke(CLIS[command[0]], [*command[1:], "--help"])
    assert shown.exit_code == 0, shown.output
    refused = CliRunner().invoke(CLIS[command[0]], [*command[1:], "--no-such-option", "--help"])
    assert refused.exit_code == 2


@pytest.mark.parametrize("service", OURS)
def test_the_services_find_their_files(service: str) -> None:
    found = mounts(service)
    assert found[f"{VARIABLES['DAGSTER_HOME']}/dagster.yaml"] == "./dagster.yaml"
    # All processes have the same collections.
    assert found[VARIABLES["RASTERET_ASSETS_COLLECTIONS"]] == "../collections"
    assert all((CELERY / source).exists() for source in found.values())
    command = SERVICES[service]["command"]
    at_hand = {Path(target).name for target in found if Path(target).parent == Path(WORKDIR)} | {"definitions.py"}
    assert {word for word in command if word.endswith((".py", ".yaml"))} <= at_hand
    assert set(SERVICES[service]["depends_on"]) == {"postgres", "redis"}


def test_the_services_get_every_environment_variable_that_the_settings_read() -> None:
    taken = set(re.findall(r"env: (\w+)", (CELERY / "dagster.yaml").read_text()))
    taken |= set(re.findall(r'environ\["(\w+)"\]', (CELERY / "dagster_celery_config.py").read_text()))
    assert all(taken <= SERVICES[name]["environment"].keys() for name in OURS)


def test_daemon_and_webserver_find_the_code_location() -> None:
    (origin,) = WorkspaceFileTarget([str(CELERY / "workspace.yaml")]).create_origins()
    assert isinstance(origin, GrpcServerCodeLocationOrigin)
    command = SERVICES[origin.host]["command"]
    assert command[command.index("-p") + 1] == str(origin.port)


def test_there_are_as_many_runs_at_once_as_workers() -> None:
    worker = SERVICES["worker"]
    assert worker["command"][worker["command"].index("-c") + 1] == "1"
    settings = SETTINGS["celery/dagster.yaml"]
    assert settings["concurrency"]["runs"]["max_concurrent_runs"] == worker["deploy"]["replicas"]


def test_the_workers_take_their_settings(tmp_path: Path) -> None:
    """Return Celery's own report of its settings."""
    environment = {
        **os.environ, "PYTHONPATH": str(CELERY), "CELERY_BROKER_URL": "redis://broker.example:6379/0",
        "CELERY_RESULT_BACKEND": "redis://results.example:6379/1",
    }  # fmt: skip
    report = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "dagster_celery.app", "report"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "transport:redis" in report
    assert "results:redis://results.example:6379/1" in report
    for line in ("task_acks_late: True", "worker_redirect_stdouts: False", "worker_max_tasks_per_child: 20"):
        assert line in report
    (visible,) = map(int, re.findall(r"'visibility_timeout': (\d+)", report))
    (kept,) = map(int, re.findall(r"result_expires: (\d+)", report))
    longest = SETTINGS["celery/dagster.yaml"]["run_monitoring"]["max_runtime_seconds"]
    assert longest < visible < kept


def snake(key: str) -> str:
    """Return Dagster's name of a key of the chart."""
    return re.sub("[A-Z]", lambda found: f"_{found[0].lower()}", key)


def snaked(values: dict[str, Any]) -> dict[str, Any]:
    """Return the ``dagster.yaml`` that the chart makes of values."""
    return {snake(key): snaked(value) if isinstance(value, dict) else value for key, value in values.items()}


def test_the_charts_values_make_an_instance(tmp_path: Path) -> None:
    daemon, launcher = VALUES["dagsterDaemon"], VALUES["runLauncher"]
    concurrency = {key: value for key, value in VALUES["concurrency"].items() if key != "enabled"}
    kubernetes = tmp_path / "kubeconfig"
    kubernetes.write_text(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": "none",
        "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}],
        "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "none", "user": {}}],
    }))  # fmt: skip
    runs = launcher["config"]["k8sRunLauncher"]["runK8sConfig"]
    settings = {
        "run_launcher": {
            "module": "dagster_k8s", "class": launcher["type"],
            "config": {
                "run_k8s_config": {snake(key): value for key, value in runs.items()},
                "load_incluster_config": False, "kubeconfig_file": str(kubernetes), "service_account_name": "dagster",
                "instance_config_map": "dagster-instance", "postgres_password_secret": "secret",
                "dagster_home": VALUES["global"]["dagsterHome"],
            },
        },
        "concurrency": snaked(concurrency),
        "run_monitoring": snaked(daemon["runMonitoring"]),
        "run_retries": snaked(daemon["runRetries"]),
    }  # fmt: skip
    with on_sqlite(settings, tmp_path) as instance:
        dagster_instance_config(str(tmp_path))
        assert instance.run_monitoring_max_runtime_seconds == 21_600
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] == 60
        context = instance.run_launcher.get_container_context_for_run(_run(instance))
        assert context.run_k8s_config.job_spec_config["backoff_limit"] == 0
        assert context.run_k8s_config.container_config["resources"]["requests"]["ephemeral-storage"]


def test_pods_write_and_look_where_the_image_says() -> None:
    (deployment,) = VALUES["dagster-user-deployments"]["deployments"]
    paths = {mount["mountPath"]: mount["name"] for mount in deployment["volumeMounts"]}
    assert set(paths) == {VARIABLES["RASTERET_ASSETS_COLLECTIONS"], VARIABLES["TMPDIR"]}
    assert set(paths.values()) == {volume["name"] for volume in deployment["volumes"]}
    assert VALUES["global"]["dagsterHome"] == VARIABLES["DAGSTER_HOME"]
    assert deployment["codeServerArgs"] == ["-f", f"{WORKDIR}/definitions.py"]


def _run(instance: dg.DagsterInstance) -> dg.DagsterRun:
    @dg.job
    def nothing() -> None: ...

    return instance.create_run_for_job(nothing)
