"""The stages of a collection as assets, each a thin shell around a stage function.

Assets write their files themselves and pass nothing in memory, so there is no IO manager: what a stage reads is what
the stage before has written. Every step of a run may cover one partition or a contiguous range of them.

https://docs.dagster.io/guides/build/assets
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import dagster as dg

from rasteret_assets.checks import require_publishable
from rasteret_assets.errors import InvalidRecordError
from rasteret_assets.orchestration.checks import check_specs, stage_results
from rasteret_assets.orchestration.metadata import rejected_metadata, stage_metadata
from rasteret_assets.orchestration.names import identifier, source_key, stage_key
from rasteret_assets.orchestration.partitions import PARTITIONS_PER_RUN, partitions_of, run_partitions
from rasteret_assets.orchestration.preview import preview
from rasteret_assets.orchestration.reporting import explained, logged_progress
from rasteret_assets.orchestration.resources import BuildOptions, FilesystemResource, StorageBackendResource
from rasteret_assets.pipeline.build import refuse_without_headers, tidy
from rasteret_assets.pipeline.stage import Build, StageResult
from rasteret_assets.pipeline.stages import STAGES, run_stage
from rasteret_assets.schema import BANDS, COLLECTION, NORMALIZED, PARSER_VERSION, RAW, REJECTED
from rasteret_assets.secrets import redact
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.workspace import Workspace

#: Pool of the header stage: ``dagster instance concurrency set cog_headers 1`` lets one run at a time ask for headers.
HEADER_POOL = "cog_headers"


def raw_records(spec: CollectionSpec) -> dg.AssetsDefinition:
    """Return the asset of stage 1: the partition's rows as the provider wrote them."""

    @dg.multi_asset(
        name=_op_name(spec, RAW),
        specs=[
            _asset_spec(
                spec,
                RAW,
                deps=[source_key(spec)],
                description=(
                    "The partition's rows exactly as they were scanned from the source, after projection and filter. "
                    "Nothing is renamed or repaired here: this is the evidence of what the provider said. "
                    "`rasteret-assets show` prints the rows."
                ),
                kinds={"arrow"},
            )
        ],
        backfill_policy=_in_ranges(),
    )
    def raw_records(
        context: dg.AssetExecutionContext, filesystem: FilesystemResource, options: BuildOptions
    ) -> dg.MaterializeResult[None]:
        with explained():
            workspace, keys = filesystem.open_workspace(spec), run_partitions(context)
            force = options.force or spec.force
            source = filesystem.open_source(spec, trust_stored=not force)
            results = run_stage(RAW, Build(workspace=workspace, spec=spec, source=source, force=force), keys)
        return _reported(context, workspace, spec, RAW, results, forced=force)

    return raw_records


def normalized_records(spec: CollectionSpec) -> dg.AssetsDefinition:
    """Return the assets of stage 2: records under the contract, and the rows that break it."""

    @dg.multi_asset(
        name=_op_name(spec, NORMALIZED),
        specs=[
            _asset_spec(
                spec,
                NORMALIZED,
                deps=_inputs(spec, NORMALIZED),
                description=(
                    "The rows under the record contract: text ids, UTC datetimes, WKB footprints in longitude and "
                    "latitude with their bbox, the CRS of the raster, assets as a struct. Columns of the provider stay "
                    "beside them."
                ),
                kinds={"arrow"},
            ),
            _asset_spec(
                spec,
                REJECTED,
                deps=_inputs(spec, NORMALIZED),
                description=(
                    "Rows that cannot be brought under the record contract, as the provider wrote them, with the "
                    f"reason. More than {spec.max_rejected:.2%} of a partition (`max_rejected`) stop its build."
                ),
                kinds={"parquet"},
            ),
        ],
        check_specs=check_specs(spec, NORMALIZED, REJECTED),
        backfill_policy=_in_ranges(),
    )
    def normalized_records(
        context: dg.AssetExecutionContext, filesystem: FilesystemResource, options: BuildOptions
    ) -> Iterator[dg.MaterializeResult[None]]:
        with explained():
            workspace, keys = filesystem.open_workspace(spec), run_partitions(context)
            results = [_normalize(context, workspace, spec, key) for key in keys]
        yield _rejected(context, workspace, spec, results)
        yield _reported(context, workspace, spec, NORMALIZED, results, forced=options.force)

    return normalized_records


def band_metadata(spec: CollectionSpec) -> dg.AssetsDefinition:
    """Return the asset of stage 3: the headers of the files."""

    @dg.multi_asset(
        name=_op_name(spec, BANDS),
        specs=[
            _asset_spec(
                spec,
                BANDS,
                deps=_inputs(spec, BANDS),
                description=(
                    "One row per record and band: where the header of its GeoTIFF is stored (grid, CRS, data type, "
                    "place of each tile), or why it has none. A header is fetched only where its file is new, where "
                    "the last try failed for a reason that may pass, or where the run is forced."
                ),
                kinds={"parquet", "cog"},
            )
        ],
        check_specs=check_specs(spec, BANDS),
        backfill_policy=_in_ranges(),
        pool=HEADER_POOL,
    )
    def band_metadata(
        context: dg.AssetExecutionContext,
        filesystem: FilesystemResource,
        backend: StorageBackendResource,
        options: BuildOptions,
    ) -> Iterator[dg.MaterializeResult[None]]:
        with explained():
            workspace, force = filesystem.open_workspace(spec), options.force or spec.force
            reader, keys = backend.backend(spec), run_partitions(context)
            build = Build(
                workspace=workspace,
                spec=spec,
                backend=reader,
                force=force,
                revalidate=options.revalidate,
                progress=lambda key: logged_progress(context, key),
            )
            results = run_stage(BANDS, build, keys)
            # For reasons that pass only: a partition whose one file is gone must not fail for ever.
            refuse_without_headers(workspace, results, transient_only=True)
        yield _reported(context, workspace, spec, BANDS, results, forced=force)

    return band_metadata


def collection(spec: CollectionSpec) -> dg.AssetsDefinition:
    """Return the asset of stage 4: the published collection."""
    hours = spec.graph.fresh_within_hours

    @dg.multi_asset(
        name=_op_name(spec, COLLECTION),
        specs=[
            _asset_spec(
                spec,
                COLLECTION,
                deps=_inputs(spec, COLLECTION),
                description=(
                    f"{spec.description} The published collection: records joined with the headers of their bands as "
                    f"GeoParquet, one file per {spec.partition_by} that is replaced in one step. Open it with "
                    "`rasteret_assets.load`, DuckDB, geopandas or rasteret."
                ).strip(),
                kinds={"parquet", "geoparquet", *spec.graph.kinds},
                metadata={"dagster/uri": redact(str(spec.published_path))},
                freshness_policy=dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=hours)) if hours else None,
            )
        ],
        backfill_policy=_in_ranges(),
    )
    def collection(
        context: dg.AssetExecutionContext,
        filesystem: FilesystemResource,
        backend: StorageBackendResource,
        options: BuildOptions,
    ) -> dg.MaterializeResult[None]:
        with explained():
            workspace, keys = filesystem.open_workspace(spec), run_partitions(context)
            # The checks of the stages before block this step only in a run that has those stages too.
            require_publishable(workspace, spec, keys)
            build = Build(workspace=workspace, spec=spec)
            results = run_stage(COLLECTION, build, keys)
            tidy(build)
        if spec.graph.preview:
            _add_previews(context, workspace, spec, results, backend.backend(spec))
        return _reported(context, workspace, spec, COLLECTION, results, forced=options.force)

    return collection


def _op_name(spec: CollectionSpec, stage: str) -> str:
    return f"{identifier(spec.name)}__{stage}"


def _inputs(spec: CollectionSpec, stage: str) -> list[dg.AssetKey]:
    """Return the assets whose tables a stage reads."""
    return [stage_key(spec, name) for name in STAGES[stage].inputs]


def _asset_spec(spec: CollectionSpec, stage: str, **values: Any) -> dg.AssetSpec:
    """Return an asset spec with the values that all stages have in common."""
    return dg.AssetSpec(
        key=stage_key(spec, stage),
        partitions_def=partitions_of(spec),
        group_name=identifier(spec.name),
        owners=spec.graph.owners,
        tags=spec.graph.tags,
        # A changed spec or parser shows as "code version changed" on what was built before.
        code_version=f"{PARSER_VERSION}-{spec.content_hash}",
        automation_condition=dg.AutomationCondition.eager() if spec.graph.automation else None,
        **values,
    )


def _in_ranges() -> dg.BackfillPolicy:
    return dg.BackfillPolicy.multi_run(PARTITIONS_PER_RUN)


def _normalize(context: dg.AssetExecutionContext, workspace: Workspace, spec: CollectionSpec, key: str) -> StageResult:
    """Normalize a partition; where too many rows break the contract, show them before the step fails."""
    try:
        (result,) = run_stage(NORMALIZED, Build(workspace=workspace, spec=spec), [key])
    except InvalidRecordError:
        metadata = rejected_metadata(workspace, spec, key)
        rejected = stage_key(spec, REJECTED)
        context.log_event(dg.AssetMaterialization(asset_key=rejected, partition=key, metadata=metadata))
        raise
    return result


def _add_previews(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    spec: CollectionSpec,
    results: Sequence[StageResult],
    backend: StorageBackend,
) -> None:
    for result in results:
        if result.path:
            picture = dg.MetadataValue.md(preview(workspace, result.path, backend))
            context.add_asset_metadata(
                {"preview": picture}, asset_key=stage_key(spec, COLLECTION), partition_key=result.key
            )


def _rejected(
    context: dg.AssetExecutionContext, workspace: Workspace, spec: CollectionSpec, results: Sequence[StageResult]
) -> dg.MaterializeResult[None]:
    keys, asset = [result.key for result in results], stage_key(spec, REJECTED)
    for key in keys:
        context.add_asset_metadata(rejected_metadata(workspace, spec, key), asset_key=asset, partition_key=key)
    # Rejected rows are decided by the raw rows and the spec alone, as normalized ones are.
    return dg.MaterializeResult(
        asset_key=asset,
        data_version=_data_version(results),
        check_results=stage_results(context, workspace, spec, keys, REJECTED),
    )


def _reported(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    spec: CollectionSpec,
    stage: str,
    results: Sequence[StageResult],
    *,
    forced: bool,
) -> dg.MaterializeResult[None]:
    asset, keys = stage_key(spec, stage), [result.key for result in results]
    for result in results:
        metadata: Mapping[str, Any] = stage_metadata(context.instance, workspace, spec, stage, result, forced=forced)
        context.add_asset_metadata(metadata, asset_key=asset, partition_key=result.key)
    # The published table is checked by a step of its own.
    checked = [] if stage in (RAW, COLLECTION) else stage_results(context, workspace, spec, keys, stage)
    return dg.MaterializeResult(asset_key=asset, data_version=_data_version(results), check_results=checked)


def _data_version(results: Sequence[StageResult]) -> dg.DataVersion | None:
    """Return the version of one partition; None for a range, all of which Dagster would give it (dagster #34013)."""
    return dg.DataVersion(results[0].version) if len(results) == 1 else None
