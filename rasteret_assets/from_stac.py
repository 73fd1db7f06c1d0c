"""Build collections from a STAC API or a static catalog: harvest its items, and build from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rasteret_assets.api import build
from rasteret_assets.collection.collection import Collection
from rasteret_assets.collection.load import load
from rasteret_assets.errors import SpecError
from rasteret_assets.harvesting.harvest import harvest_items, is_harvested, refuse_failed_windows
from rasteret_assets.harvesting.harvest_report import HarvestReport
from rasteret_assets.inputs import FilesystemLike
from rasteret_assets.progress import harvest_progress
from rasteret_assets.spec import CloudConfig, CollectionSpec
from rasteret_assets.spec_values import CloudValues, HarvestValues
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.commit import unfinished_partitions


def harvest(
    spec: CollectionSpec, *, workspace_filesystem: FilesystemLike | None = None, force: bool = False
) -> HarvestReport:
    """Bring the harvested STAC items of a collection up to date, asking only for windows that can have changed.

    Items lie in ``<workspace>/<name>_harvest``, one Parquet file per window, which :func:`~rasteret_assets.build` reads
    as the record table. A file is replaced as a whole, and only if its items changed.

    Args:
        spec: of the collection, with ``harvest`` options.
        workspace_filesystem: pyarrow or fsspec filesystem of the workspace; by default that of its path.
        force: ask for all windows again.

    Raises:
        SpecError: if the collection is not harvested.
        HarvestError: if the API refuses the search, or windows could not be harvested: they keep what they had, and
            all others are up to date.
        WorkspaceError: if files cannot be written.
    """
    if not isinstance(spec, CollectionSpec):
        raise SpecError(f"{spec!r} is not a CollectionSpec: make one with CollectionSpec.of(harvest=..., name=...)")
    with harvest_progress(spec.name) as progress:
        report = harvest_items(spec, Workspace.of(spec, workspace_filesystem), force=force, progress=progress)
    refuse_failed_windows(spec, report)
    return report


def build_from_stac(
    *,
    name: str,
    stac_api: str,
    collection: str,
    data_source: str | None = None,
    band_map: dict[str, str] | None = None,
    band_index_map: dict[str, int] | None = None,
    bbox: tuple[float, float, float, float] | None = None,
    date_range: tuple[str, str] | None = None,
    workspace_dir: str | Path | None = None,
    force: bool = False,
    max_concurrent: int = 50,
    cloud_config: CloudConfig | CloudValues | None = None,
    query: dict[str, Any] | None = None,
    backend: StorageBackend | None = None,
    static_catalog: bool = False,
) -> Collection:
    """Build a collection from the items of a STAC API or a static catalog, headers included.

    The items are harvested and the collection is published below ``workspace_dir``. Where that was done before with the
    same arguments, the collection is opened as it is, unless ``force``; :func:`~rasteret_assets.harvest` and
    :func:`~rasteret_assets.build` bring it up to date.

    Args:
        name: of the collection.
        stac_api: address of the API, or path or address of the catalog.
        collection: id of the STAC collection.
        data_source: identifier of the provider's product; by default ``collection``.
        band_map: ``{band: asset}`` to index; by default every raster asset under its own name.
        band_index_map: ``{band: 0-based sample}`` where several bands of ``band_map`` are samples of one asset.
        bbox: west, south, east, north in degrees.
        date_range: first and last date, or instants of ISO 8601.
        workspace_dir: folder or URI below which items and collection lie; ``~/rasteret_workspace`` when omitted.
        force: ask for all items and all headers again.
        max_concurrent: header requests in flight at most.
        cloud_config: how the provider's objects are reached; its ``url_patterns`` rewrite hrefs too.
        query: of STAC's query extension; only for an API.
        backend: where bytes come from; see :func:`~rasteret_assets.storage.create_backend`.
        static_catalog: whether ``stac_api`` is a static catalog.

    Raises:
        SpecError: for arguments that do not fit.
        HarvestError: if items cannot be harvested.
        RecordError: if items cannot be normalized.
        BandNotFoundError: if ``band_map`` names an asset that no item has.
        EnrichmentError: if no header could be read.
    """
    if isinstance(date_range, str):
        raise SpecError(f"date_range={date_range!r} must be a first and a last date, such as ('2024-05', '2024-06')")
    asked: HarvestValues = {
        "stac_api": None if static_catalog else stac_api, "stac_catalog": stac_api if static_catalog else None,
        "collections": [collection], "bbox": bbox, "datetime": None if date_range is None else "/".join(date_range),
        "query": query or {}, "band_map": band_map or {}, "band_index_map": band_index_map or {},
    }  # fmt: skip
    spec = CollectionSpec.of(
        harvest=asked, name=name, data_source=data_source or collection, workspace_dir=workspace_dir, enrich_cog=True,
        band_codes=list(band_map) if band_map else None, cloud_config=cloud_config, max_concurrent=max_concurrent,
    )  # fmt: skip
    workspace = Workspace.of(spec)
    if force or not is_harvested(spec, workspace) or not workspace.exists() or unfinished_partitions(workspace):
        harvest(spec, force=force)
        build(spec, backend=backend, force=force)
    return load(str(spec.published_path), name=name)
