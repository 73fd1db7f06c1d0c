"""Assembly: every declared collection, the resources and the executor, as the one ``Definitions`` Dagster loads.

A collection is declared by a YAML file whose fields are those of ``CollectionSpec``::

    # collections/sentinel2.yaml
    path: s3://bucket/items.parquet
    enrich_cog: true

https://docs.dagster.io/guides/build/projects
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from rasteret_assets.errors import SpecError
from rasteret_assets.orchestration.assets import collection_assets
from rasteret_assets.orchestration.names import identifier
from rasteret_assets.orchestration.resources import default_resources
from rasteret_assets.spec import CollectionSpec, spec_from_mapping

COLLECTIONS_VARIABLE = "RASTERET_ASSETS_COLLECTIONS"
DEMO_COLLECTIONS = Path("rasteret_demo") / "collections"

_DECLARE = "declare one in a YAML file such as collections/scenes.yaml, with path: and name: of its record table"


def build_definitions(
    specs: Sequence[CollectionSpec] | None = None,
    *,
    collections_dir: str | Path | None = None,
    project_dir: str | Path | None = None,
    resources: Mapping[str, Any] | None = None,
) -> dg.Definitions:
    """Definitions of all declared collections.

    Args:
        specs: collections; those declared in YAML files when omitted.
        collections_dir: folder of the YAML files. When omitted: the folder that the environment variable
            ``RASTERET_ASSETS_COLLECTIONS`` names, else ``collections`` in ``project_dir``, else the collections of the
            demo in the working directory.
        project_dir: folder of the ``definitions.py`` that asks.
        resources: over :func:`~rasteret_assets.orchestration.resources.default_resources`, by key.

    Raises:
        SpecError: naming the file and field of every declaration that does not fit.
    """
    if specs is None:
        folder = _collections_folder(collections_dir, project_dir)
        specs = read_specs(folder) if folder is not None else []
        if not specs:
            where = f"no YAML file in {folder}" if folder is not None else "no folder of collections"
            dg.get_dagster_logger("rasteret_assets").warning(f"No collection is declared ({where}): {_DECLARE}.")
    _check_names(specs)
    return dg.Definitions.merge(
        *(collection_assets(spec) for spec in specs),
        dg.Definitions(
            resources={**default_resources(), **(resources or {})},
            # The header stage is concurrent by itself: a process per step would cost seconds and bring nothing.
            executor=dg.in_process_executor,
        ),
    )


def read_specs(folder: str | Path) -> list[CollectionSpec]:
    """The collections declared in the YAML files of a folder, by file name.

    Raises:
        SpecError: naming the file and field of every declaration that does not fit.
    """
    files = sorted(path for path in Path(folder).iterdir() if path.suffix in {".yaml", ".yml"})
    specs, problems = [], []
    for file in files:
        try:
            specs.append(read_spec(file))
        except SpecError as error:
            problems.append(str(error))
    if problems:
        raise SpecError("\n".join(problems))
    return specs


def read_spec(file: str | Path) -> CollectionSpec:
    """The collection a YAML file declares; relative paths start at the file's folder, the name defaults to the file's.

    Raises:
        SpecError: naming the file, the field and the remedy.
    """
    file = Path(file)
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SpecError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{file}: cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise SpecError(f"{file}: declares no collection: write fields such as path: and name:, one per line")
    for field in ("path", "workspace_dir"):
        if isinstance(values.get(field), str):
            values[field] = _from_folder(file.parent, values[field])
    try:
        return spec_from_mapping({"name": file.stem, **values})
    except SpecError as error:
        raise SpecError(f"{file}: {error}") from None


def _from_folder(folder: Path, path: str) -> str:
    if "://" in path:
        return path
    return str((folder / Path(path).expanduser()).resolve())


def _collections_folder(given: str | Path | None, project_dir: str | Path | None) -> Path | None:
    """The folder of declarations; None where there is none to find. A folder somebody named must exist."""
    named = {"collections_dir": given, COLLECTIONS_VARIABLE: os.environ.get(COLLECTIONS_VARIABLE)}
    for name, value in named.items():
        if value:
            folder = Path(value).expanduser()
            if not folder.is_dir():
                raise SpecError(f"{name}={str(value)!r}: no such folder; name the one that holds the YAML files")
            return folder
    beside = [Path(project_dir) / "collections"] if project_dir is not None else []
    return next((folder for folder in [*beside, DEMO_COLLECTIONS.absolute()] if folder.is_dir()), None)


def _check_names(specs: Sequence[CollectionSpec]) -> None:
    """Refuse collections that Dagster could not tell apart."""
    counted = Counter(identifier(spec.name) for spec in specs)
    if double := sorted(spec.name for spec in specs if counted[identifier(spec.name)] > 1):
        raise SpecError(
            f"several collections are called {', '.join(dict.fromkeys(double))}; give each a name of its own "
            "('-', '.' and '_' do not tell names apart)"
        )
