"""Everything Dagster needs to know about one collection: assets, checks, jobs, sensors and schedules."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from rasteret_assets.errors import SpecError
from rasteret_assets.orchestration.asset_specs import GetAssetSpec, checked_spec
from rasteret_assets.orchestration.checks import published_checks
from rasteret_assets.orchestration.harvested_items import harvest_definitions, harvest_jobs
from rasteret_assets.orchestration.hint_sensor import hint_sensor
from rasteret_assets.orchestration.io_manager import collection_io_manager
from rasteret_assets.orchestration.jobs import jobs_of
from rasteret_assets.orchestration.names import HARVESTED, SOURCE, io_manager_key
from rasteret_assets.orchestration.retry import retry_sensor
from rasteret_assets.orchestration.schedules import after_look_sensor, refresh_schedule, revalidate_schedule
from rasteret_assets.orchestration.sensor import refresh_sensor
from rasteret_assets.orchestration.source import source_asset
from rasteret_assets.orchestration.stages import band_metadata, collection, normalized_records, raw_records
from rasteret_assets.schema import BANDS, COLLECTION, NORMALIZED, RAW
from rasteret_assets.spec import CollectionSpec


def collection_assets(spec: CollectionSpec, *, get_asset_spec: GetAssetSpec | None = None) -> dg.Definitions:
    """Return all definitions of one collection, except the resources that it shares with others.

    Args:
        spec: of the collection; it must have a name.
        get_asset_spec: returns the asset spec of the source or of a stage by its name, for a project that changes
            those of :func:`~rasteret_assets.orchestration.asset_specs.stage_spec`: descriptions, metadata, owners,
            tags, kinds, group, freshness, automation. Keys, partitions and dependencies are not for it to change.

    Returns:
        Below ``<name>/`` the source and the four stages, with their checks; the jobs ``<name>_build``,
        ``<name>_rebuild``, ``<name>_revalidate`` and ``<name>_look``; and, stopped until somebody starts them, the
        sensors ``<name>_refresh`` and ``<name>_retry`` and the schedules ``<name>_refresh_schedule`` and
        ``<name>_revalidate_schedule``. The sensor ``<name>_after_look`` runs: it builds what the looks found that the
        refresh schedule launched. A collection that is harvested has the asset ``<name>/harvested_items`` upstream of
        its source, the jobs ``<name>_harvest`` and ``<name>_harvest_windows`` and the schedule
        ``<name>_harvest_schedule`` too. The sensor
        ``<name>_events`` is there where the spec names a queue. The IO manager of
        ``<name>/collection`` is among them.

    Raises:
        SpecError: if the spec has no name, or ``get_asset_spec`` changes what the steps of the collection go by.
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
            after_look_sensor(spec, jobs),
            *([hint_sensor(spec, [jobs.build, jobs.look, *harvests], queue)] if queue is not None else []),
        ],
        schedules=[refresh_schedule(spec), revalidate_schedule(spec)],
        resources={io_manager_key(spec): collection_io_manager(spec)},
    )
    return dg.Definitions.merge(own, *harvest)


@contextmanager
def _beta_accepted() -> Iterator[None]:
    """Silence Dagster's beta warnings (observable sources, backfill policies), which a user cannot act on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        yield
