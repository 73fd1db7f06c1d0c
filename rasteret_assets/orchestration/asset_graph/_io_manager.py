"""Load a collection for an asset that takes it as an argument, with the records of the asset's own partitions.

    @dg.asset(ins={"collection": dg.AssetIn(["scenes", "collection"])}, partitions_def=partitions_of(spec))
    def ndvi(collection: Collection) -> None: ...

Only the files of these partitions are opened, and rows are read when the asset uses them.

https://docs.dagster.io/guides/build/io-managers
"""

from collections.abc import Collection as Keys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Never

import dagster as dg
import pyarrow.compute as pc

from rasteret_assets.collection import Collection, load
from rasteret_assets.errors import CollectionError, SpecError
from rasteret_assets.message_lists import some
from rasteret_assets.orchestration.asset_graph.events import failures_of_run, run_failure
from rasteret_assets.orchestration.graph_names import stage_key
from rasteret_assets.orchestration.graph_resources import (
    BACKEND,
    FILESYSTEM,
    FilesystemResource,
    StorageBackendResource,
)
from rasteret_assets.orchestration.pages.reporting import explained
from rasteret_assets.schema import COLLECTION
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.filesystems import each_file
from rasteret_assets.storage.workspace import Workspace

#: Metadata by which an input accepts partitions that were not built. Dagster's own IO managers use the same name.
ALLOW_MISSING: Final = "allow_missing_partitions"
_MOST_NAMED: Final = 5


def collection_io_manager(spec: CollectionSpec) -> dg.IOManagerDefinition:
    """Return the IO manager that loads a collection, by the resources that the collection's stages use."""

    @dg.io_manager(
        required_resource_keys={FILESYSTEM, BACKEND},
        description=f"Loads {spec.name} for assets that take it as an argument: the records of their partitions.",
    )
    def collections(context: dg.InitResourceContext) -> _CollectionIOManager:
        if context.instance is None:
            raise SpecError(f"the IO manager of {spec.name} works in runs only: use rasteret_assets.load")
        return _CollectionIOManager(
            spec=spec,
            instance=context.instance,
            run_id=None if context.run is None else context.run.run_id,
            filesystem=getattr(context.resources, FILESYSTEM),
            backend=getattr(context.resources, BACKEND),
        )

    return collections


@dataclass(frozen=True, kw_only=True)
class _CollectionIOManager(dg.IOManager):
    """Loads a collection in a run.

    Args:
        spec: of the collection.
        instance: of the run.
        run_id: of the run; None outside of runs, for example in a notebook.
        filesystem: on which the collection lies.
        backend: that reads the rasters.
    """

    spec: CollectionSpec
    instance: dg.DagsterInstance
    run_id: str | None
    filesystem: FilesystemResource
    backend: StorageBackendResource

    def handle_output(self, context: dg.OutputContext, obj: Any) -> Never:
        """Refuse to write, because only the stages of a collection write it."""
        asset = context.asset_key.to_user_string() if context.has_asset_key else context.name
        raise dg.Failure(
            f"{asset} has the IO manager of the collection {self.spec.name}, which only loads the collection: leave "
            f"io_manager_key out, or name one that stores a {type(obj).__name__}",
            allow_retries=False,
        )

    def load_input(self, context: dg.InputContext) -> Collection:
        """Return the collection with the records of the step's partitions.

        Raises:
            dagster.Failure: naming partitions that were never built, and partitions that failed in this run.
        """
        with explained():
            workspace = self.filesystem.open_workspace(self.spec)
            # All published partitions outside of runs, because only a run selects some.
            keys = list(context.asset_partition_keys if context.has_asset_partitions else workspace.states())
            failures = {} if self.run_id is None else failures_of_run(self.instance, self.run_id, self.spec)
            if failed := [failures[key] for key in keys if key in failures]:
                raise run_failure(failed, len(keys) - len(failed))
            states = each_file(workspace.fs, workspace.state, keys)
            published = [key for key, state in zip(keys, states, strict=True) if state is not None]
            if missing := sorted(set(keys).difference(published)):
                self._tell_missing(context, missing)
            return self._load(workspace, published)

    def _tell_missing(self, context: dg.InputContext, missing: Sequence[str]) -> None:
        """Refuse partitions that were never built, and log partitions that are gone from the record table."""
        gone = self.instance.get_materialized_partitions(stage_key(self.spec, COLLECTION)) & set(missing)
        unbuilt = [key for key in missing if key not in gone]
        if unbuilt and not (context.definition_metadata or {}).get(ALLOW_MISSING):
            keys = some(unbuilt, _MOST_NAMED)
            raise CollectionError(
                f"{self.spec.name} was not built yet for {keys}: materialize the partitions first, or allow the "
                f"input to lack them by "
                f"metadata={{{ALLOW_MISSING!r}: True}}"
            )
        context.log.info(
            "%s has no records for %s: nothing is published of them", self.spec.name, some(missing, _MOST_NAMED)
        )

    def _load(self, workspace: Workspace, keys: Keys[str]) -> Collection:
        path, backend = str(self.spec.published_path), self.backend.backend(self.spec)
        filesystem = self.filesystem.filesystem(path)
        if keys:
            found = load(path, self.spec.name, partitions=sorted(keys), filesystem=filesystem)
            return replace(found, backend=backend)
        # Another partition is opened for its columns, and none of its rows are returned.
        others = list(workspace.states())[:1]
        if not others:
            raise CollectionError(f"nothing of {self.spec.name} is published: materialize it first")
        found = load(path, self.spec.name, partitions=others, filesystem=filesystem)
        return replace(found.where(pc.scalar(value=False)), backend=backend)
