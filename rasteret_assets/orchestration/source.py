"""The record table of a collection as Dagster sees it: an asset that others write, and that is observed here."""

import warnings

import dagster as dg

from rasteret_assets.orchestration.names import identifier, source_key
from rasteret_assets.orchestration.partitions import discover_partitions, partitions_of
from rasteret_assets.orchestration.reporting import explained
from rasteret_assets.orchestration.resources import FilesystemResource
from rasteret_assets.secrets import redact
from rasteret_assets.source.stored import load_profile
from rasteret_assets.spec import CollectionSpec


def source_asset(spec: CollectionSpec) -> dg.SourceAsset:
    """Return the asset of the record table: observing it registers partitions and notes their versions."""

    @dg.observable_source_asset(
        key=source_key(spec),
        partitions_def=partitions_of(spec),
        group_name=identifier(spec.name),
        description=(
            f"The record table at `{redact(spec.path)}`: one row per raster item, with the addresses of its files. "
            "Others write it; observing it (one look at all rows) notes its partitions and a data version of each."
        ),
        metadata={"path": dg.MetadataValue.path(redact(spec.path)), "data_source": spec.data_source},
        tags={**spec.graph.tags, "dagster/kind/parquet": ""},
    )
    def source(context: dg.OpExecutionContext, rasteret_filesystem: FilesystemResource) -> dg.DataVersionsByPartition:
        with explained():
            workspace = rasteret_filesystem.open_workspace(spec)
            profile = load_profile(workspace, rasteret_filesystem.open_source(spec), spec)
        discover_partitions(context.instance, spec, profile)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)
            return dg.DataVersionsByPartition({key: profile.version(key, spec) for key in profile.partitions})

    return source
