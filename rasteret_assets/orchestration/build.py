"""Assembly: every declared collection, the resources and the executor, as the one ``Definitions`` Dagster loads.

A collection is declared by a YAML file whose fields are those of ``CollectionSpec``::

    # collections/sentinel2.yaml
    path: s3://bucket/items.parquet
    enrich_cog: true

https://docs.dagster.io/guides/build/projects
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from rasteret_assets.declare import collections_folder, read_specs
from rasteret_assets.errors import SpecError
from rasteret_assets.orchestration.assets import collection_assets
from rasteret_assets.orchestration.names import identifier
from rasteret_assets.orchestration.resources import default_resources
from rasteret_assets.spec import CollectionSpec

_DECLARE = "declare one in a YAML file such as collections/scenes.yaml, with path: and name: of its record table"


def build_definitions(
    specs: Sequence[CollectionSpec] | None = None,
    *,
    collections_dir: str | Path | None = None,
    project_dir: str | Path | None = None,
    resources: Mapping[str, Any] | None = None,
) -> dg.Definitions:
    """Return the definitions of all declared collections.

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
        folder = collections_folder(collections_dir, project_dir)
        specs = read_specs(folder) if folder is not None else []
        if not specs:
            where = f"no YAML file in {folder}" if folder is not None else "no folder of collections"
            dg.get_dagster_logger("rasteret_assets").warning(f"No collection is declared ({where}): {_DECLARE}.")
    _check_names(specs)
    return dg.Definitions.merge(
        *(collection_assets(spec) for spec in specs),
        dg.Definitions(
            resources={**default_resources(), **(resources or {})},
            executor=dg.in_process_executor,
        ),
    )


def _check_names(specs: Sequence[CollectionSpec]) -> None:
    """Refuse collections whose names are equal in Dagster."""
    counted = Counter(identifier(spec.name) for spec in specs)
    if double := sorted(spec.name for spec in specs if counted[identifier(spec.name)] > 1):
        raise SpecError(
            f"several collections are called {', '.join(dict.fromkeys(double))}; give each a name of its own "
            "('-', '.' and '_' do not tell names apart)"
        )
