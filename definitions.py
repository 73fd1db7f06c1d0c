"""Give Dagster the definitions of every collection that is declared under ``collections/``."""

from pathlib import Path

from rasteret_assets.dagster import build_definitions

defs = build_definitions(project_dir=Path(__file__).parent)
