"""Define the record table of a collection as an asset that others write and that this package observes.

https://docs.dagster.io/guides/build/assets/external-assets
"""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from rasteret_assets.errors import NotHarvestedError
from rasteret_assets.orchestration.asset_graph.events import REPORTED, source_observations
from rasteret_assets.orchestration.asset_graph.graph_partitions import discover_partitions
from rasteret_assets.orchestration.graph_names import SOURCE, op_name
from rasteret_assets.orchestration.graph_resources import FilesystemResource
from rasteret_assets.orchestration.pages.reporting import explained
from rasteret_assets.source.stored import load_profile
from rasteret_assets.spec import CollectionSpec


def source_asset(spec: CollectionSpec, asset: dg.AssetSpec) -> dg.AssetsDefinition:
    """Return the asset of the record table; observing it registers partitions and reports changed versions."""
    # Annotated here, because Dagster's decorator has no return annotation.
    observed: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.multi_observable_source_asset(
        name=op_name(spec, SOURCE),
        specs=[asset.replace_attributes(deps=[])],
    )

    @observed
    def source(
        context: dg.AssetExecutionContext, rasteret_filesystem: FilesystemResource
    ) -> Iterator[dg.ObserveResult]:
        observe_source(context, rasteret_filesystem, spec)
        yield dg.ObserveResult(asset_key=asset.key, metadata=REPORTED)

    # Dependencies are added after the step was made, so that the step has no input: Dagster (1.13) cannot run the step
    # of a partitioned asset without a partition if an input is partitioned, and *Observe* finds out the partitions.
    return source.map_asset_specs(lambda _: asset)


def observe_source(
    context: dg.OpExecutionContext | dg.AssetExecutionContext, filesystem: FilesystemResource, spec: CollectionSpec
) -> None:
    """Profile the record table, register its partitions, and report to Dagster the versions that are new to it.

    Raises:
        dagster.Failure: if the record table cannot be read.
    """
    with explained():
        workspace = filesystem.open_workspace(spec)
        try:
            profile = load_profile(workspace, filesystem.open_source(spec), spec)
        except NotHarvestedError as error:
            context.log.warning("%s", error)
            return
        published = workspace.states()
    discover_partitions(context.instance, spec, profile, published)
    versions = {partition: profile.version(partition, spec) for partition in profile.partitions}
    changed = source_observations(context.instance, spec, versions)
    for event in changed:
        context.log_event(event)
    context.log.info("%s of %s partitions of the source have a new version", len(changed), len(versions))
