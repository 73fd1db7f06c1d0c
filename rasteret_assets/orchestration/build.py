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

from rasteret_assets.declare import collections_folder, declaration_files, read_declarations
from rasteret_assets.errors import SpecError
from rasteret_assets.orchestration.assets import collection_assets
from rasteret_assets.orchestration.broken import broken_declarations
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

    A declaration that does not fit is left out: the log and an asset in the group ``broken_declarations`` name its
    mistakes, and the other collections are there.

    Raises:
        SpecError: if a folder that somebody named does not exist, or two of ``specs`` have one name.
    """
    broken: list[dg.AssetSpec] = []
    if specs is None:
        made, broken = _declared(collections_folder(collections_dir, project_dir))
    else:
        _check_names(specs)
        made = [collection_assets(spec) for spec in specs]
    return dg.Definitions.merge(
        *made,
        dg.Definitions(
            assets=broken,
            resources={**default_resources(), **(resources or {})},
            executor=dg.in_process_executor,
        ),
    )


def _declared(folder: Path | None) -> tuple[list[dg.Definitions], list[dg.AssetSpec]]:
    """Return the definitions of the collections that a folder declares, and the assets of broken declarations."""
    files = [] if folder is None else declaration_files(folder)
    if not files:
        where = "no folder of collections" if folder is None else f"no YAML file in {folder}"
        dg.get_dagster_logger("rasteret_assets").warning(f"No collection is declared ({where}): {_DECLARE}.")
    found = read_declarations(files, same=identifier)
    return [collection_assets(spec) for spec in found.specs.values()], broken_declarations(found.mistakes)


def _check_names(specs: Sequence[CollectionSpec]) -> None:
    """Refuse collections whose names are equal in Dagster."""
    counted = Counter(identifier(spec.name) for spec in specs)
    if double := sorted(spec.name for spec in specs if counted[identifier(spec.name)] > 1):
        raise SpecError(
            f"several collections are called {', '.join(dict.fromkeys(double))}; give each a name of its own "
            "('-', '.' and '_' do not tell names apart)"
        )
