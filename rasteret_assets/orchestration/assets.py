"""The assets of one collection: its source table and the four stages, each a thin shell around a stage function.

Assets write their files themselves and pass nothing in memory, so there is no IO manager: what a stage reads is what
the stage before has written. Every asset of a run may cover one partition or a contiguous range of them.

https://docs.dagster.io/guides/build/assets
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg

from rasteret_assets.errors import EnrichmentError, RangeReadError, RasteretAssetsError, SourceError, SpecError
from rasteret_assets.orchestration.metadata import stage_metadata
from rasteret_assets.orchestration.partitions import (
    PARTITIONS_PER_RUN,
    discover_partitions,
    identifier,
    partitions_of,
)
from rasteret_assets.orchestration.resources import BuildOptions, FilesystemResource, StorageBackendResource
from rasteret_assets.orchestration.sensor import refresh_sensor
from rasteret_assets.schema import BANDS, COLLECTION, NORMALIZED, PARSER_VERSION, RAW, STAGES
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.stages.build import refuse_without_headers
from rasteret_assets.stages.headers import HeaderProgress
from rasteret_assets.stages.known import set_aside_headers
from rasteret_assets.stages.look import load_profile
from rasteret_assets.stages.publish import publish_collection_document
from rasteret_assets.stages.run import (
    StageResult,
    run_band_metadata,
    run_collection,
    run_normalized_records,
    run_raw_records,
)
from rasteret_assets.storage.urls import redact

SOURCE = "source"

#: Pool of the header stage: ``dagster instance concurrency set cog_headers 1`` lets one run at a time ask for headers.
HEADER_POOL = "cog_headers"

_PROGRESS_INTERVAL_S = 5.0


def collection_assets(spec: CollectionSpec) -> dg.Definitions:
    """Everything Dagster needs to know about one collection, except the resources.

    Args:
        spec: of the collection; it must have a name.

    Returns:
        The source and the four assets below ``<name>/``, the job ``<name>_build`` and the sensor ``<name>_refresh``,
        which is stopped until somebody starts it.
    """
    if not spec.name:
        raise SpecError("a collection of the graph needs a name: give name=")
    with _beta_accepted():
        source = source_asset(spec)
        stages = [raw_records(spec), normalized_records(spec), band_metadata(spec), collection(spec)]
    job = dg.define_asset_job(
        build_job_name(spec),
        selection=dg.AssetSelection.assets(*stages),
        description=f"All four stages of {spec.name}, for one partition or a range of them.",
    )
    return dg.Definitions(
        assets=[source, *stages],
        jobs=[job],
        sensors=[refresh_sensor(spec, job.name, [stage_key(spec, stage) for stage in STAGES], source_key(spec))],
    )


def build_job_name(spec: CollectionSpec) -> str:
    """Name of the job that builds partitions of a collection."""
    return f"{identifier(spec.name)}_build"


def source_key(spec: CollectionSpec) -> dg.AssetKey:
    """Asset key of a collection's record table."""
    return dg.AssetKey([spec.name, SOURCE])


def stage_key(spec: CollectionSpec, stage: str) -> dg.AssetKey:
    """Asset key of one of the four stages."""
    return dg.AssetKey([spec.name, stage])


def source_asset(spec: CollectionSpec) -> dg.SourceAsset:
    """The record table, which others write: observing it registers its partitions and notes the version of each."""

    @dg.observable_source_asset(
        key=source_key(spec),
        partitions_def=partitions_of(spec),
        group_name=identifier(spec.name),
        description=(
            f"The record table at `{redact(spec.path)}`: one row per raster item, with the addresses of its files. "
            "Others write it; observing it (one look at all rows) notes which months it has and a data version of each."
        ),
        metadata={"path": dg.MetadataValue.path(redact(spec.path)), "data_source": spec.data_source},
        tags={"dagster/kind/parquet": ""},
    )
    def source(context: dg.OpExecutionContext, filesystem: FilesystemResource) -> dg.DataVersionsByPartition:
        with explained():
            workspace = filesystem.open_workspace(spec)
            profile = load_profile(workspace, filesystem.open_source(spec), spec)
        discover_partitions(context.instance, spec, profile)
        with _beta_accepted():
            return dg.DataVersionsByPartition({key: profile.version(key, spec) for key in profile.partitions})

    return source


def raw_records(spec: CollectionSpec) -> dg.AssetsDefinition:
    """Stage 1: the partition's rows as the provider wrote them."""

    @_stage_asset(
        spec,
        RAW,
        deps=[source_key(spec)],
        description=(
            "The partition's rows exactly as they were scanned from the source, after projection and filter. Nothing "
            "is renamed or repaired here: this is the evidence of what the provider said."
        ),
        kinds={"parquet"},
    )
    def raw_records(
        context: dg.AssetExecutionContext, filesystem: FilesystemResource, options: BuildOptions
    ) -> dg.MaterializeResult[None]:
        with explained():
            workspace, keys = filesystem.open_workspace(spec), _partition_keys(context)
            results = run_raw_records(workspace, filesystem.open_source(spec), spec, keys)
        return _reported(context, spec, results, forced=options.force)

    return raw_records


def normalized_records(spec: CollectionSpec) -> dg.AssetsDefinition:
    """Stage 2: the record contract."""

    @_stage_asset(
        spec,
        NORMALIZED,
        deps=[stage_key(spec, RAW)],
        description=(
            "The rows under the record contract: text ids, UTC datetimes, WKB footprints in longitude and latitude "
            "with their bbox, the CRS of the raster, assets as a struct. Columns of the provider stay beside them. "
            "Rows that cannot be brought under it are written to `rejected_records` with the reason."
        ),
        kinds={"parquet", "arrow"},
    )
    def normalized_records(
        context: dg.AssetExecutionContext, filesystem: FilesystemResource, options: BuildOptions
    ) -> dg.MaterializeResult[None]:
        with explained():
            workspace = filesystem.open_workspace(spec)
            results = [run_normalized_records(workspace, spec, key) for key in _partition_keys(context)]
        return _reported(context, spec, results, forced=options.force)

    return normalized_records


def band_metadata(spec: CollectionSpec) -> dg.AssetsDefinition:
    """Stage 3: the headers of the files."""

    @_stage_asset(
        spec,
        BANDS,
        deps=[stage_key(spec, NORMALIZED)],
        description=(
            "One row per record and band: the header of its GeoTIFF (grid, CRS, data type, where each tile lies), or "
            "the reason why there is none. It is the cache too: a header is fetched only where it is new, failed "
            "before, or the run is forced."
        ),
        kinds={"parquet", "cog"},
        pool=HEADER_POOL,
    )
    def band_metadata(
        context: dg.AssetExecutionContext,
        filesystem: FilesystemResource,
        backend: StorageBackendResource,
        options: BuildOptions,
    ) -> dg.MaterializeResult[None]:
        with explained():
            workspace, force = filesystem.open_workspace(spec), options.force or spec.force
            reader, keys = backend.backend(spec), _partition_keys(context)
            if not force:
                set_aside_headers(workspace, spec, keys)
            results = [
                run_band_metadata(
                    workspace,
                    spec,
                    key,
                    reader,
                    force=force,
                    revalidate=options.revalidate,
                    progress=_logged_progress(context, key),
                )
                for key in keys
            ]
            # For reasons that pass only: a month whose one file is gone must not fail for ever.
            refuse_without_headers(workspace, results, transient_only=True)
        return _reported(context, spec, results, forced=force)

    return band_metadata


def collection(spec: CollectionSpec) -> dg.AssetsDefinition:
    """Stage 4: the published collection."""

    @_stage_asset(
        spec,
        COLLECTION,
        deps=[stage_key(spec, NORMALIZED), stage_key(spec, BANDS)],
        description=(
            f"{spec.description} The published collection: records joined with the headers of their bands as "
            "GeoParquet, one file per month that is replaced in one step. Open it with `rasteret_assets.load`, DuckDB, "
            "geopandas or rasteret."
        ).strip(),
        kinds={"parquet", "geoparquet"},
    )
    def collection(
        context: dg.AssetExecutionContext, filesystem: FilesystemResource, options: BuildOptions
    ) -> dg.MaterializeResult[None]:
        with explained():
            workspace = filesystem.open_workspace(spec)
            results = [run_collection(workspace, spec, key) for key in _partition_keys(context)]
            publish_collection_document(workspace, spec)
        return _reported(context, spec, results, forced=options.force)

    return collection


def _stage_asset(
    spec: CollectionSpec,
    stage: str,
    *,
    deps: Sequence[dg.AssetKey],
    description: str,
    kinds: set[str],
    pool: str | None = None,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """``dg.asset`` with what the four stages have in common."""
    return dg.asset(
        key=stage_key(spec, stage),
        deps=deps,
        description=description,
        kinds=kinds,
        pool=pool,
        partitions_def=partitions_of(spec),
        group_name=identifier(spec.name),
        # A changed spec or parser shows as "code version changed" on what was built before.
        code_version=f"{PARSER_VERSION}-{spec.content_hash}",
        backfill_policy=dg.BackfillPolicy.multi_run(PARTITIONS_PER_RUN),
    )


@contextmanager
def explained() -> Iterator[None]:
    """Errors of this package as Dagster failures: one sentence in the UI, retried only where that can help."""
    try:
        yield
    except RasteretAssetsError as error:
        passing = isinstance(error, EnrichmentError | RangeReadError | SourceError)
        raise dg.Failure(description=str(error), allow_retries=passing) from error


@contextmanager
def _beta_accepted() -> Iterator[None]:
    """No beta warnings (observable sources, backfill policies): who loads a collection can do nothing about them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        yield


def _partition_keys(context: dg.AssetExecutionContext) -> Sequence[str]:
    """The run's partitions.

    Dagster lets a range run succeed that holds no key at all, where its ends are in calendar order but were registered
    the other way round; it would show as materialized what nobody built.
    """
    keys: Sequence[str] = context.partition_keys
    if not keys:
        raise SpecError(
            "the partition range of this run is empty: ranges follow the order in which partitions were registered, "
            "which is not the calendar's; select the partitions one by one, or let the sensor do it"
        )
    return keys


def _reported(
    context: dg.AssetExecutionContext, spec: CollectionSpec, results: Sequence[StageResult], *, forced: bool
) -> dg.MaterializeResult[None]:
    for result in results:
        context.add_asset_metadata(stage_metadata(result, spec, forced=forced), partition_key=result.key)
    # One data version would go to every partition of a range (dagster #34013), so there Dagster makes its own.
    version = None if context.has_partition_key_range else dg.DataVersion(results[0].version)
    return dg.MaterializeResult(data_version=version)


def _logged_progress(context: dg.AssetExecutionContext, key: str) -> Callable[[HeaderProgress], None]:
    """A progress callback that writes a line to the run's log every few seconds."""
    last = time.monotonic()

    def report(progress: HeaderProgress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _PROGRESS_INTERVAL_S:
            last = now
            rate = progress.done / max(progress.seconds, 1e-3)
            left = f", about {(progress.total - progress.done) / rate:.0f} s left" if rate else ""
            line = (
                f"{key}: {progress.done} of {progress.total} headers, {rate:.0f}/s, {progress.failed} failed, "
                f"{progress.concurrency} in flight{left}"
            )
            context.log.info(line)

    return report
