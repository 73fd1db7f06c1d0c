"""Celery without a service: a broker and a store of results that are folders, and workers that are processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent.parent
SETTINGS = REPOSITORY / "examples" / "celery"


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
        "module": "rasteret_assets.orchestration.celery",
        "class": "WatchfulCeleryRunLauncher",
        "config": {
            "broker": settings["broker_url"],
            "backend": settings["result_backend"],
            "config_source": {"broker_transport_options": settings["broker_transport_options"]},
        },
    }
