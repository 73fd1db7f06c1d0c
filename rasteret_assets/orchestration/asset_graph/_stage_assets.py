"""Define the stages of a collection as assets, each a thin shell around a stage function of the library.

Assets write their files themselves and pass nothing in memory: a stage reads the files of the stages before it. A step
of a run covers one partition or a contiguous range of partitions.

https://docs.dagster.io/guides/build/assets
"""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from rasteret_assets.checks import publication_errors
from rasteret_assets.errors import CheckError, EnrichmentError, InvalidRecordError
from rasteret_assets.orchestration.asset_graph._stage_step import StageStep
from rasteret_assets.orchestration.asset_graph.asset_checks import check_specs
from rasteret_assets.orchestration.graph_names import op_name
from rasteret_assets.orchestration.graph_resources import BuildOptions, FilesystemResource, StorageBackendResource
from rasteret_assets.orchestration.pages._preview import preview
from rasteret_assets.orchestration.pages.metadata import header_costs, rejected_metadata, stage_metadata
from rasteret_assets.orchestration.pages.reporting import explained, logged_progress
from rasteret_assets.pipeline.build import refuse_without_headers, tidy
from rasteret_assets.pipeline.stage import Build, StageResult
from rasteret_assets.schema import BANDS, COLLECTION, NORMALIZED, RAW
from rasteret_assets.spec import CollectionSpec

#: Pool of the header stage: after ``dagster instance concurrency set cog_headers 1`` one run at a time fetches headers.
HEADER_POOL = "cog_headers"


def raw_records(spec: CollectionSpec, asset: dg.AssetSpec) -> dg.AssetsDefinition:
    """Return the asset of stage 1, the raw records: rows of the record table as the provider wrote them."""

    @_stage_asset(spec, asset)
    def raw_records(
        context: dg.AssetExecutionContext, rasteret_filesystem: FilesystemResource, rasteret_options: BuildOptions
    ) -> Iterator[dg.MaterializeResult[None]]:
        with explained():
            step = StageStep(context, rasteret_filesystem.open_workspace(spec), spec, RAW)
            force = rasteret_options.force or spec.force
            source = rasteret_filesystem.open_source(spec, trust_stored=not force)
            results = step.run(Build(workspace=step.workspace, spec=spec, source=source, force=force))
        yield from step.report(
            results, lambda result: stage_metadata(step.workspace, spec, RAW, result, rasteret_filesystem, forced=force)
        )

    return raw_records


def normalized_records(spec: CollectionSpec, asset: dg.AssetSpec) -> dg.AssetsDefinition:
    """Return the asset of stage 2, the normalized records: rows under the record contract, and the rejected rows."""

    @_stage_asset(spec, asset)
    def normalized_records(
        context: dg.AssetExecutionContext, rasteret_filesystem: FilesystemResource, rasteret_options: BuildOptions
    ) -> Iterator[dg.MaterializeResult[None]]:
        with explained():
            step = StageStep(context, rasteret_filesystem.open_workspace(spec), spec, NORMALIZED)
            build = Build(workspace=step.workspace, spec=spec)
            results = step.run(build, explain=lambda key, error: _rejects(step, key, error))

        def described(result: StageResult) -> dict[str, Any]:
            metadata = stage_metadata(
                step.workspace,
                spec,
                NORMALIZED,
                result,
                rasteret_filesystem,
                forced=rasteret_options.force or spec.force,
            )
            if result.counts.get("rejected_records"):
                metadata |= rejected_metadata(step.workspace, spec, result.key)
            return metadata

        yield from step.report(results, described)

    return normalized_records


def _rejects(step: StageStep, key: str, error: Exception) -> dict[str, Any]:
    """Return the metadata of rejected rows if too many of them stopped a partition, else nothing."""
    if not isinstance(error, InvalidRecordError):
        return {}
    return rejected_metadata(step.workspace, step.spec, key)


def band_metadata(spec: CollectionSpec, asset: dg.AssetSpec) -> dg.AssetsDefinition:
    """Return the asset of stage 3, the band metadata: the headers of the files."""

    @_stage_asset(spec, asset, pool=HEADER_POOL)
    def band_metadata(
        context: dg.AssetExecutionContext,
        rasteret_filesystem: FilesystemResource,
        rasteret_backend: StorageBackendResource,
        rasteret_options: BuildOptions,
    ) -> Iterator[dg.MaterializeResult[None]]:
        with explained():
            step = StageStep(context, rasteret_filesystem.open_workspace(spec), spec, BANDS)
            force = rasteret_options.force or spec.force
            build = Build(
                workspace=step.workspace,
                spec=spec,
                backend=rasteret_backend.backend(spec),
                force=force,
                revalidate=rasteret_options.revalidate,
                progress=lambda key: logged_progress(context, key),
            )
            results = step.run(build)
            for result in results:
                try:
                    # Only for transient failures, because a partition whose only file is gone would else always fail.
                    refuse_without_headers(step.workspace, [result], transient_only=True)
                except EnrichmentError as error:
                    step.fail(result.key, error)
            costs = header_costs(context.instance, spec, results)

        def described(result: StageResult) -> dict[str, Any]:
            cost = costs.get(result.key)
            return stage_metadata(step.workspace, spec, BANDS, result, rasteret_filesystem, forced=force, cost=cost)

        yield from step.report(results, described)

    return band_metadata


def collection(spec: CollectionSpec, asset: dg.AssetSpec) -> dg.AssetsDefinition:
    """Return the asset of stage 4, the published collection."""

    @_stage_asset(spec, asset)
    def collection(
        context: dg.AssetExecutionContext,
        rasteret_filesystem: FilesystemResource,
        rasteret_backend: StorageBackendResource,
        rasteret_options: BuildOptions,
    ) -> Iterator[dg.MaterializeResult[None]]:
        with explained():
            step = StageStep(context, rasteret_filesystem.open_workspace(spec), spec, COLLECTION)
            # Stages of this run are left out, because their steps have checked them.
            unchecked = [stage for stage in (NORMALIZED, BANDS) if stage not in step.steps_of_run]
            for key, problem in publication_errors(step.workspace, spec, step.keys, unchecked).items():
                step.fail(key, CheckError(problem))
            build = Build(workspace=step.workspace, spec=spec)
            results = step.run(build)
            tidy(build)

        def described(result: StageResult) -> dict[str, Any]:
            metadata = stage_metadata(
                step.workspace,
                spec,
                COLLECTION,
                result,
                rasteret_filesystem,
                forced=rasteret_options.force or spec.force,
            )
            if spec.graph.preview and result.path:
                picture = preview(step.workspace, result.path, rasteret_backend.backend(spec))
                metadata["preview"] = dg.MetadataValue.md(picture)
            return metadata

        yield from step.report(results, described)

    return collection


def _stage_asset(
    spec: CollectionSpec, asset: dg.AssetSpec, *, pool: str | None = None
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Return a decorator that makes an asset of a stage's step, with the settings that all stages share."""
    stage = asset.key.path[-1]
    return dg.multi_asset(
        name=op_name(spec, stage),
        specs=[asset],
        check_specs=check_specs(spec, stage) if stage not in (RAW, COLLECTION) else None,
        # By number of partitions, because a policy knows no number of headers; sensors group partitions by both.
        backfill_policy=dg.BackfillPolicy.multi_run(spec.graph.partitions_per_run),
        pool=pool,
        op_tags=spec.graph.op_tags,
    )
