"""A Dagster code location, loaded as ``dagster -f`` and ``-m`` load it, for its resources."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import dagster as dg
from dagster._core.workspace.autodiscovery import (
    loadable_targets_from_python_file,
    loadable_targets_from_python_module,
)
from dagster.components.definitions import LazyDefinitions

from rasteret_assets.dagster import FilesystemResource, StorageBackendResource, default_resources
from rasteret_assets.orchestration.graph_resources import BACKEND, FILESYSTEM

Resource = TypeVar("Resource", FilesystemResource, StorageBackendResource)


@dataclass(frozen=True, kw_only=True)
class CodeLocation:
    """The resources of a code location, which say how files are opened.

    Args:
        folder: of its file.
        filesystem: where record tables are read and collections are written.
        backend: where headers are read from.
        resources: those that the graph takes, by key, as they are defined.
    """

    folder: Path
    filesystem: FilesystemResource
    backend: StorageBackendResource
    resources: dict[str, Any]


def load_code_location(python_file: Path | None, module_name: str | None) -> CodeLocation:
    """Load a code location by file or by module.

    Raises:
        ClickException: if it cannot be loaded, has no definitions, or its resources are of another type.
    """
    name = str(python_file or module_name)
    here = str(Path.cwd())
    try:
        if module_name is not None:
            (target,) = loadable_targets_from_python_module(module_name, here)
            folder = Path(str(sys.modules[module_name].__file__)).parent
        else:
            (target,) = loadable_targets_from_python_file(name, here)
            folder = Path(name).absolute().parent
        found: Any = target.target_definition
        # A function with the decorator @definitions is called for its definitions.
        definitions = found() if isinstance(found, LazyDefinitions) else found
        if not isinstance(definitions, dg.Definitions):
            raise click.ClickException(f"{name} defines no dg.Definitions: only they name resources")
        defaults = default_resources()
        given = {key: value for key, value in (definitions.resources or {}).items() if key in defaults}
        provided = {**defaults, **given}
        return CodeLocation(
            folder=folder,
            filesystem=_made(name, FILESYSTEM, provided, FilesystemResource),
            backend=_made(name, BACKEND, provided, StorageBackendResource),
            resources=given,
        )
    except dg.DagsterError as error:
        raise click.ClickException(f"{name}: {error}") from error


def _made(name: str, key: str, provided: dict[str, Any], kind: type[Resource]) -> Resource:
    """Return a resource with its environment variables filled in."""
    resource = provided[key]
    if not isinstance(resource, kind):
        raise click.ClickException(f"{name}: the resource {key} is a {type(resource).__name__}, not a {kind.__name__}")
    made: Resource = resource.process_config_and_initialize()
    return made
