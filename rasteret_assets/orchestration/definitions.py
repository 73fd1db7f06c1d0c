"""Assemble the ``Definitions`` that Dagster loads: those of one collection, and those of all declared collections.

A collection is declared by a YAML file whose fields are those of ``CollectionSpec``::

    # collections/sentinel2.yaml
    path: s3://bucket/items.parquet
    enrich_cog: true

A declaration with a mistake becomes an asset of the catalog, so that the other collections of the code location load.

https://docs.dagster.io/guides/build/projects
https://docs.dagster.io/guides/build/assets/external-assets
"""

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import dagster as dg

from rasteret_assets.declare import collections_folder, declaration_files, read_declarations
from rasteret_assets.errors import Mistake, SpecError
from rasteret_assets.orchestration.asset_graph._io_manager import collection_io_manager
from rasteret_assets.orchestration.asset_graph._stage_assets import (
    band_metadata,
    collection,
    normalized_records,
    raw_records,
)
from rasteret_assets.orchestration.asset_graph.asset_checks import published_checks
from rasteret_assets.orchestration.asset_graph.asset_specs import GetAssetSpec, checked_spec
from rasteret_assets.orchestration.asset_graph.harvested_items import harvest_definitions, harvest_jobs
from rasteret_assets.orchestration.asset_graph.source_asset import source_asset
from rasteret_assets.orchestration.graph_names import HARVESTED, SOURCE, identifier, io_manager_key
from rasteret_assets.orchestration.graph_resources import default_resources
from rasteret_assets.orchestration.pages.markdown import sentence
from rasteret_assets.orchestration.pages.reporting import table_metadata
from rasteret_assets.orchestration.triggers._hint_sensor import hint_sensor
from rasteret_assets.orchestration.triggers._retry_sensor import retry_sensor
from rasteret_assets.orchestration.triggers._schedules import (
    after_profile_sensor,
    refresh_schedule,
    revalidate_schedule,
)
from rasteret_assets.orchestration.triggers.jobs import jobs_of
from rasteret_assets.orchestration.triggers.refresh_sensor import refresh_sensor
from rasteret_assets.schema import BANDS, COLLECTION, NORMALIZED, RAW
from rasteret_assets.spec import CollectionSpec

#: Group in which the catalog and the asset graph show broken declarations.
BROKEN_GROUP: Final = "broken_declarations"

_DECLARE = "declare one in a YAML file such as collections/scenes.yaml, with path: and name: of its record table"


def collection_definitions(spec: CollectionSpec, *, get_asset_spec: GetAssetSpec | None = None) -> dg.Definitions:
    """Return all definitions of one collection, except the resources that it shares with other collections.

    Args:
        spec: of the collection; it must have a name.
        get_asset_spec: returns the asset spec of the source or of a stage by its name, for a project that changes the
            specs of :func:`~rasteret_assets.dagster.stage_spec`: descriptions, metadata, owners,
            tags, kinds, group, freshness, automation. It must not change keys, partitions and dependencies.

    Returns:
        Below ``<name>/`` the source and the four stages, with their checks; the jobs ``<name>_build``,
        ``<name>_rebuild``, ``<name>_revalidate`` and ``<name>_look``; and, stopped until somebody starts them, the
        sensors ``<name>_refresh`` and ``<name>_retry`` and the schedules ``<name>_refresh_schedule`` and
        ``<name>_revalidate_schedule``. The sensor ``<name>_after_look`` runs: it builds the changes found by the look
        jobs that the refresh schedule launched. A collection that is harvested also has the asset
        ``<name>/harvested_items`` upstream of its source, the jobs ``<name>_harvest`` and
        ``<name>_harvest_windows``, and the schedule ``<name>_harvest_schedule``. A spec that names a queue adds the
        sensor ``<name>_events``. The IO manager of ``<name>/collection`` is among the resources.

    Raises:
        SpecError: if the spec has no name, or ``get_asset_spec`` changes a key, partitions or dependencies.
    """
    if not spec.name:
        raise SpecError("a collection of the graph needs a name: give name=")
    # Dagster warns of a parameter of its own when it copies a sensor to bind resources to its job, which it does after
    # this function has returned.
    warnings.filterwarnings("ignore", "Parameter `owners` of initializer `SensorDefinition", dg.BetaWarning)
    with _beta_accepted():
        source, jobs = source_asset(spec, checked_spec(spec, SOURCE, get_asset_spec)), jobs_of(spec)
        makers = {RAW: raw_records, NORMALIZED: normalized_records, BANDS: band_metadata, COLLECTION: collection}
        stages = [make(spec, checked_spec(spec, stage, get_asset_spec)) for stage, make in makers.items()]
        harvests = [] if spec.harvest is None else harvest_jobs(spec)
        harvest = (
            [] if spec.harvest is None else [harvest_definitions(spec, checked_spec(spec, HARVESTED, get_asset_spec))]
        )
    queue = spec.graph.events_queue
    own = dg.Definitions(
        assets=[source, *stages],
        asset_checks=[published_checks(spec)],
        jobs=[*jobs, *harvests],
        sensors=[
            refresh_sensor(spec, jobs),
            retry_sensor(spec),
            after_profile_sensor(spec, jobs),
            *([hint_sensor(spec, [jobs.build, jobs.profile, *harvests], queue)] if queue is not None else []),
        ],
        schedules=[refresh_schedule(spec), revalidate_schedule(spec)],
        resources={io_manager_key(spec): collection_io_manager(spec)},
    )
    return dg.Definitions.merge(own, *harvest)


def build_definitions(
    specs: Sequence[CollectionSpec] | None = None,
    *,
    collections_dir: str | Path | None = None,
    project_dir: str | Path | None = None,
    resources: Mapping[str, object] | None = None,
) -> dg.Definitions:
    """Return the definitions of all declared collections, the resources and the executor.

    A declaration with a mistake is left out: the log and an asset in the group ``broken_declarations`` name its
    mistakes, and the other collections are there.

    Args:
        specs: collections; those declared in YAML files when omitted.
        collections_dir: folder of the YAML files. When omitted: the folder that the environment variable
            ``RASTERET_ASSETS_COLLECTIONS`` names, else ``collections`` in ``project_dir``, else the collections of the
            demo in the working directory.
        project_dir: folder of the ``definitions.py`` that calls this function.
        resources: by key; each replaces the one of
            :func:`~rasteret_assets.dagster.default_resources`.

    Raises:
        SpecError: if a folder named by ``collections_dir`` or the environment does not exist, or two of ``specs`` have
            one name.
    """
    broken: list[dg.AssetSpec] = []
    if specs is None:
        made, broken = _declared(collections_folder(collections_dir, project_dir))
    else:
        _check_names(specs)
        made = [collection_definitions(spec) for spec in specs]
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
    return [collection_definitions(spec) for spec in found.specs.values()], _broken_declarations(found.mistakes)


def _check_names(specs: Sequence[CollectionSpec]) -> None:
    """Refuse collections whose names are equal in Dagster."""
    counted = Counter(identifier(spec.name) for spec in specs)
    if double := sorted(spec.name for spec in specs if counted[identifier(spec.name)] > 1):
        raise SpecError(
            f"several collections are called {', '.join(dict.fromkeys(double))}; give each a name of its own "
            "(names that differ only in '-', '.' and '_' count as one)"
        )


def _broken_declarations(mistakes: Mapping[Path, Sequence[Mistake]]) -> list[dg.AssetSpec]:
    """Return an external asset for every declaration with mistakes, and log the mistakes.

    Args:
        mistakes: of each declaration, by its file.
    """
    log = dg.get_dagster_logger("rasteret_assets")
    for file, found in mistakes.items():
        text = "; ".join(map(str, found))
        log.error("%s is broken and left out; the other collections are loaded: %s", file, text)
    return [_broken_asset(file, found) for file, found in mistakes.items()]


def _broken_asset(file: Path, mistakes: Sequence[Mistake]) -> dg.AssetSpec:
    mistakes = sorted(mistakes, key=lambda mistake: mistake.line or 0)
    rows = [{"line": mistake.line or 0, "field": mistake.field, "mistake": mistake.message} for mistake in mistakes]
    lines = "\n".join(f"* {sentence(str(mistake))}" for mistake in mistakes)
    return dg.AssetSpec(
        key=[BROKEN_GROUP, file.name],
        group_name=BROKEN_GROUP,
        description=f"**This declaration is broken: its collection is not loaded.**\n\n{lines}\n\nCorrect the file and "
        "reload the code location; `rasteret-assets validate` lists the same mistakes.",
        kinds={"yaml"},
        metadata={"file": dg.MetadataValue.path(str(file)), "mistakes": table_metadata(rows)},
    )


@contextmanager
def _beta_accepted() -> Iterator[None]:
    """Silence Dagster's beta warnings (observable sources, backfill policies), which a user can do nothing about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        yield
