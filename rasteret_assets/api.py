"""The stages as library calls: ``build_from_table`` for a first build, ``plan`` and ``build`` for later ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.checks import require_publishable
from rasteret_assets.collection import Collection, as_collection, load
from rasteret_assets.errors import CollectionError, SpecError
from rasteret_assets.headers.band_metadata import BandMetadataReader, check_enrichment, count_failures
from rasteret_assets.headers.places import Places
from rasteret_assets.headers.rows import MemorySink
from rasteret_assets.inputs import FilesystemLike, FilterLike, RecordTableLike
from rasteret_assets.partitions import hive_keys
from rasteret_assets.pipeline.build import BuildReport, build_partitions
from rasteret_assets.pipeline.plan import GONE, BuildPlan, plan_build, refuse_unknown, stale_partitions
from rasteret_assets.pipeline.stage import Build
from rasteret_assets.progress import terminal_progress
from rasteret_assets.publish.describe import describe_assets
from rasteret_assets.publish.join import PLACE_COLUMNS, band_headers, join_headers
from rasteret_assets.publish.parameters import tell_parameters
from rasteret_assets.publish.stac import COLLECTION_DOCUMENT
from rasteret_assets.records.normalize import normalize_records
from rasteret_assets.schema import BANDS, ID, STATUS_OK
from rasteret_assets.source.locate import paths_of
from rasteret_assets.source.open import Source, open_source
from rasteret_assets.source.profiling import profile_source
from rasteret_assets.source.stored import open_record_table
from rasteret_assets.spec import DEFAULT_MAX_CONCURRENT, CloudConfig, CollectionSpec
from rasteret_assets.spec_values import CloudValues
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.create import create_backend
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.commit import unfinished_partitions, verified_states

_log = logging.getLogger(__name__)


def build_from_table(
    path: RecordTableLike,
    *,
    name: str = "",
    data_source: str = "",
    workspace_dir: str | Path | None = None,
    column_map: Mapping[str, str] | None = None,
    href_column: str | None = None,
    band_index_map: Mapping[str, int] | None = None,
    url_rewrite_patterns: Mapping[str, str] | None = None,
    filesystem: FilesystemLike | None = None,
    columns: Sequence[str] | None = None,
    filter_expr: FilterLike | None = None,
    enrich_cog: bool = False,
    band_codes: Sequence[str] | None = None,
    cloud_config: CloudConfig | CloudValues | None = None,
    max_concurrent: int = DEFAULT_MAX_CONCURRENT,
    force: bool = False,
    backend: StorageBackend | None = None,
) -> Collection:
    """Build a collection from a record table: one row per scene or file, with the addresses of its GeoTIFFs.

    With a ``name`` or a ``workspace_dir`` the collection is published as partitioned GeoParquet and opened from there;
    where one is published already it is returned as it is, unless ``force``; only partitions that a killed build left
    out, or whose files are lost, are built. Without either it stays in memory.

    Args:
        path: path, URI or HTTP(S) address of a Parquet or GeoParquet file, of a dataset directory, or of a STAC
            Collection whose assets are Parquet files; a glob; a list of these; or an Arrow Table, Dataset,
            RecordBatchReader or any object with ``__arrow_c_stream__``.
        name: name of the collection.
        data_source: identifier of the provider's product.
        workspace_dir: folder or URI under which ``<name>_records`` is published; a path that ends in ``_records`` or
            ``_stac`` is used as it is. ``~/rasteret_workspace`` when omitted and there is a name.
        column_map: ``{source column: contract column}`` aliases; source columns are kept.
        href_column: column with one file address per record, where there is no ``assets`` column.
        band_index_map: ``{band: 0-based sample}`` of the files in ``href_column``.
        url_rewrite_patterns: ``{prefix: replacement}`` of hrefs; the longest matching prefix wins.
        filesystem: pyarrow or fsspec filesystem of ``path`` where that is a path.
        columns: source columns to scan; all when omitted.
        filter_expr: rows to scan: a pyarrow expression or list-of-tuples filters.
        enrich_cog: read file headers into ``{band}_metadata`` columns.
        band_codes: bands to enrich; every raster asset when omitted.
        cloud_config: how the provider's objects are reached; its ``url_patterns`` rewrite hrefs too.
        max_concurrent: ceiling of header requests in flight.
        force: read every header again and rebuild.
        backend: where bytes come from; see :func:`~rasteret_assets.storage.create_backend`.

    Returns:
        The collection. A record whose header could not be read is in it, with a null in that band's column; the ledger
        under ``<name>_stages/band_metadata`` says why.

    Raises:
        SpecError: for unknown or contradictory arguments.
        SourceError: if the table cannot be opened or read.
        RecordError: if a column is missing or rows break the record contract.
        BandNotFoundError: if ``band_codes`` names an asset that no record has.
        EnrichmentError: if not one header could be read.
    """
    spec = CollectionSpec.of(
        path=paths_of(path) or "", name=name, data_source=data_source, workspace_dir=workspace_dir,
        column_map=column_map, href_column=href_column, band_index_map=band_index_map,
        url_rewrite_patterns=url_rewrite_patterns, columns=columns, filter_expr=filter_expr, enrich_cog=enrich_cog,
        band_codes=band_codes, cloud_config=cloud_config, max_concurrent=max_concurrent, force=force,
    )  # fmt: skip
    backend = _backend(backend, spec)
    target = spec.published_path
    if target is None:
        return _build_in_memory(open_source(path, spec, filesystem, backend=backend), spec, backend)
    spec = _sized_as_published(spec)
    workspace = Workspace.of(spec)
    _refuse_another(workspace, spec)
    unfinished = None
    if workspace.exists() and not force:
        unfinished = unfinished_partitions(workspace)
        if not unfinished:
            return load(target, name=name)
        _log.warning(
            "%s: an interrupted build did not finish %d partitions, or their files are missing or damaged (%s); "
            "building them", target, len(unfinished), ", ".join(unfinished[:10]),
        )  # fmt: skip
    # Partitions need not exist, because another process may have finished them a moment ago.
    options: dict[str, Any] = {"force": force, "partitions": unfinished, "must_exist": False}
    source = open_record_table(workspace, path, spec, filesystem, trust_stored=not force, backend=backend)
    _build(workspace, source, spec, backend, **options)
    return load(target, name=name)


def plan(
    spec: CollectionSpec,
    *,
    filesystem: FilesystemLike | None = None,
    workspace_filesystem: FilesystemLike | None = None,
    backend: StorageBackend | None = None,
    force: bool = False,
    revalidate: bool = False,
    partitions: Sequence[str] | None = None,
) -> BuildPlan:
    """Return what :func:`build` would do now: which partitions and why, how many headers. Asks no host.

    Args:
        spec: of the collection; it needs a name or a workspace.
        filesystem: pyarrow or fsspec filesystem of the record table.
        workspace_filesystem: pyarrow or fsspec filesystem of the workspace; that of its path when omitted.
        backend: whose headers and tokens open a record table at an address or in a bucket.
        force: as for the build.
        revalidate: as for the build.
        partitions: keys (such as ``2024-05``, or ``undated``) to plan; all when omitted.

    Raises:
        SpecError: if the collection is not published anywhere.
        SourceError: if the table cannot be opened or read.
        RecordError: if a column is missing or cannot be normalized.
    """
    workspace = _workspace(spec, workspace_filesystem)
    force = force or spec.force
    filesystem = _of_table(spec, filesystem, workspace_filesystem)
    source = open_record_table(workspace, spec.path, spec, filesystem, trust_stored=not force, backend=backend)
    options = {"force": force, "revalidate": revalidate}
    return plan_build(workspace, source, spec, only=partitions, **options)


def build(
    spec: CollectionSpec,
    *,
    filesystem: FilesystemLike | None = None,
    workspace_filesystem: FilesystemLike | None = None,
    backend: StorageBackend | None = None,
    force: bool = False,
    revalidate: bool = False,
    partitions: Sequence[str] | None = None,
) -> BuildReport:
    """Bring a published collection up to date with its record table, touching only what has changed.

    Partitions are built that are new, whose rows changed, whose headers failed for a reason that may have passed, or
    that a killed build left behind; those gone from the table are unpublished. In them a header is fetched only where
    it is not stored yet.

    Args:
        spec: of the collection; it needs a name or a workspace.
        filesystem: pyarrow or fsspec filesystem of the record table.
        workspace_filesystem: pyarrow or fsspec filesystem of the workspace; that of its path when omitted.
        backend: where bytes come from; see :func:`~rasteret_assets.storage.create_backend`.
        force: read the whole table and every header again, and rebuild every partition.
        revalidate: ask whether the files of stored headers have changed, and read the changed files again.
        partitions: keys (such as ``2024-05``, or ``undated``) to build at most; all when omitted.

    Raises:
        SpecError: if the collection is not published anywhere.
        SourceError: if the table cannot be opened or read.
        RecordError: if a column is missing or rows break the record contract.
        EnrichmentError: if headers were asked for and not one could be read.
        CheckError: if more headers are missing than the spec's ``max_failed``, or another check keeps a partition from
            being published. Then nothing of this build is published.
    """
    workspace = _workspace(spec, workspace_filesystem)
    _refuse_another(workspace, spec)
    force = force or spec.force
    filesystem = _of_table(spec, filesystem, workspace_filesystem)
    backend = _backend(backend, spec)
    source = open_record_table(workspace, spec.path, spec, filesystem, trust_stored=not force, backend=backend)
    options = {"force": force, "revalidate": revalidate}
    return _build(workspace, source, spec, backend, partitions=partitions, **options)


def _of_table(
    spec: CollectionSpec, filesystem: FilesystemLike | None, workspace_filesystem: FilesystemLike | None
) -> FilesystemLike | None:
    """Return the filesystem of the record table: that of the workspace where harvested items are the table."""
    return workspace_filesystem if filesystem is None and spec.harvest is not None else filesystem


def _backend(given: StorageBackend | None, spec: CollectionSpec) -> StorageBackend:
    if given is None:
        return create_backend(cloud_config=spec.cloud, link_local=spec.link_local, credentials=spec.credentials)
    if not isinstance(given, StorageBackend):
        raise SpecError(
            f"backend= is a {type(given).__name__}, which has no get_range and get_ranges: make one with "
            "create_backend()"
        )
    return given


def _refuse_another(workspace: Workspace, spec: CollectionSpec) -> None:
    """Refuse a folder that holds another collection; a folder that ends in ``_records`` or ``_stac`` holds only one."""
    if not spec.name or workspace.published.endswith(f"/{spec.name}_records"):
        return
    document = workspace.read_json(f"{workspace.stages}/{COLLECTION_DOCUMENT}", cache=True)
    title = spec.name if document is None else document.get("title", spec.name)
    if title != spec.name:
        raise CollectionError(
            f"{workspace.published} holds the collection {title!r}, not {spec.name!r}: give another "
            "workspace_dir, or remove what is there"
        )


def _sized_as_published(spec: CollectionSpec) -> CollectionSpec:
    """Return the spec with the partition size of the published collection, which arguments cannot say.

    Raises:
        CollectionError: if a build that changes the size did not come to its end.
    """
    sizes = sorted(Workspace.of(spec).published_sizes())
    if len(sizes) > 1:
        raise CollectionError(
            f"{spec.published_path} holds partitions by {' and by '.join(sizes)}, because a build that changes "
            "partition_by runs or was interrupted: let it end, or run it again with build(spec)"
        )
    return spec.model_copy(update={"partition_by": sizes[0]}) if sizes else spec


def _workspace(spec: CollectionSpec, filesystem: FilesystemLike | None) -> Workspace:
    if not isinstance(spec, CollectionSpec):
        raise SpecError(f"{spec!r} is not a CollectionSpec: make one with CollectionSpec.of(path=..., name=...)")
    if spec.published_path is None:
        raise SpecError("the collection is not published anywhere: give its spec a name or a workspace_dir")
    return Workspace.of(spec, filesystem)


def _build(
    workspace: Workspace,
    source: Source,
    spec: CollectionSpec,
    backend: StorageBackend,
    *,
    force: bool = False,
    revalidate: bool = False,
    partitions: Sequence[str] | None = None,
    must_exist: bool = True,
) -> BuildReport:
    building = Build(
        workspace=workspace, source=source, spec=spec, backend=backend, force=force, revalidate=revalidate
    )  # fmt: skip
    with terminal_progress("headers") as progress, building.profiling(trust_stored=not force) as profile:
        building.progress = progress
        states = verified_states(workspace)
        if must_exist:
            refuse_unknown(partitions, profile, states)
        reasons = stale_partitions(states, profile, spec, force=force, revalidate=revalidate, only=partitions)
        gone = [key for key, reason in reasons.items() if reason == GONE]
        if gone and len(gone) == len(states):
            _log.warning(
                "%s: the record table has no record of any published partition: unpublishing all of them",
                workspace.published,
            )
        results = build_partitions(
            building, list(reasons),
            # Only where a spec says how many headers may be missing, because the check reads all ledgers.
            require=require_publishable if spec.max_failed < 1 else None,
        )  # fmt: skip
    report = BuildReport(reasons=reasons, results=results)
    if spec.enrich_cog:
        _warn_of_no_address(report.totals["records"], sum(band.rows for band in results[BANDS].values()))
    return report


def _build_in_memory(source: Source, spec: CollectionSpec, backend: StorageBackend) -> Collection:
    """Run the stages over a whole record table at once; records keep their order."""
    profile = profile_source(source, spec)
    result = normalize_records(source.table(), spec, profile)
    result.check(spec.max_rejected)
    ledger, headers = None, dict[str, pa.Array]()
    if profile.bands:
        sink = MemorySink()
        with terminal_progress("headers") as progress:
            reader = BandMetadataReader(
                profile.bands, backend, explicit=spec.names_bands, places=Places.of(spec, remote=profile.remote),
                max_concurrent=spec.max_concurrent, sink=sink, overviews=spec.overviews, progress=progress(""),
                rule=spec.secrets,
            )  # fmt: skip
            rows, step = result.records.num_rows, reader.slice_rows
            slices = [
                reader.read(result.records.slice(first, step), max(0, rows - first - step))
                for first in range(0, max(1, rows), step)
            ]
        ledger = pa.concat_tables(slices)
        check_enrichment([ledger])
        _warn_of_failures(ledger)
        places = ledger.select(list(PLACE_COLUMNS)) if ledger.num_rows else None
        headers = band_headers(result.records[ID].combine_chunks(), places, profile.bands, sink.take_each)
    if spec.enrich_cog:
        _warn_of_no_address(result.records.num_rows, 0 if ledger is None else ledger.num_rows)
    table, findings = join_headers(result.records, headers, spec.secrets)
    tell_parameters(findings.kept, findings.taken)
    if spec.describe_assets:
        table = describe_assets(table, profile.bands)
    # Last, as in a published collection.
    keys = hive_keys(spec.partition_by)
    table = table.select([*(name for name in table.schema.names if name not in keys), *keys])
    return as_collection(
        table, name=spec.name, data_source=spec.data_source, require_band_metadata=False, credentials=spec.credentials
    )


def _warn_of_no_address(records: float, headers: int) -> None:
    """Warn where headers are wanted, but no record has the address of a file."""
    if records and not headers:
        _log.warning(
            "no header was read: none of %d records has the address of a raster file, as a struct of assets with an "
            "href or in the column that href_column names", records,
        )  # fmt: skip


def _warn_of_failures(ledger: pa.Table) -> None:
    """Warn of headers that could not be read, because a collection in memory has no ledger on disk."""
    failed = ledger.filter(pc.not_equal(ledger["status"], STATUS_OK))
    if failed.num_rows:
        first = failed.slice(0, 1).to_pylist()[0]
        _log.warning(
            "%d of %d headers could not be read (%s); the first (record %r, band %r): %s", failed.num_rows,
            ledger.num_rows, ", ".join(f"{count} {name}" for name, count in count_failures(ledger).items()),
            first[ID], first["band"], first["error"],
        )  # fmt: skip
