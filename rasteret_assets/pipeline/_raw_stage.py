"""Run stage 1, raw records: store the rows of each partition as the provider wrote them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from rasteret_assets.errors import CollectionError, DamagedFileError, SourceChangedError, SourceError
from rasteret_assets.headers.earlier import remove_earlier_tables
from rasteret_assets.pipeline.stage import (
    REMOVED,
    Build,
    StageResult,
    side_by_side,
    timed,
)
from rasteret_assets.schema import (
    RAW,
)
from rasteret_assets.source.open import Source
from rasteret_assets.source.partition_rows import parts_of, scan_parts
from rasteret_assets.source.profile import SourceProfile
from rasteret_assets.source.spool import Spool
from rasteret_assets.source.stage_footer import read_stage_footer, with_stage_footer
from rasteret_assets.source.stored import load_profile
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.process.background import in_background
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.streams import open_stream

_log = logging.getLogger(__name__)


def make_raw_records(build: Build, keys: Sequence[str]) -> dict[str, StageResult]:
    """Write the rows of every partition; files that were read while the source was profiled are not read again."""
    workspace, spec = build.workspace, build.spec
    if build.source is None:
        raise CollectionError("the raw records need the record table")
    source: Source = build.source
    workspace.sweep()
    with ExitStack() as stack:
        if build.spool is None:
            spool, seen = stack.enter_context(Spool(workspace, source.schema, source.label)), set[str]()
            profile = load_profile(workspace, source, spec)
        else:
            spool, seen = build.spool
            profile = build._profile or load_profile(workspace, source, spec)  # noqa: SLF001

        def put(key: str) -> StageResult:
            return _put_raw(workspace, spec, spool, source, profile, key)

        try:
            _fill(build, spool, source, profile, keys, seen)
            results = side_by_side(keys, put, at_once=1)
        except (SourceError, DamagedFileError) as error:
            # Once more, from the beginning, because the stored profile of the source is outdated. A file that was read
            # for the profile, and cannot be read now, was rewritten too.
            _log.warning("%s; the source is profiled again", error)
            source = build.source = source.reopen() if source.reopen is not None else source
            spool = stack.enter_context(Spool(workspace, source.schema, source.label))
            profile = load_profile(workspace, source, spec, trust_stored=False)
            _fill(build, spool, source, profile, keys, set(), trust_stored=False)
            results = side_by_side(keys, put, at_once=1, failed=build.failed)
        build._profile = profile  # noqa: SLF001
    remove_earlier_tables(workspace, set(keys))
    return results


def _fill(
    build: Build,
    spool: Spool,
    source: Source,
    profile: SourceProfile,
    keys: Sequence[str],
    seen: set[str],
    *,
    trust_stored: bool = True,
) -> None:
    """Fill the spool with rows of partitions: of unchanged files from the last raw records, else from the files."""
    wanted = parts_of(source, profile, [key for key in keys if key in profile.partitions])
    wanted = {version: held for version, held in wanted.items() if version not in seen}
    if trust_stored and not build.force:
        for key in sorted({key for held in wanted.values() for key in held}):
            digests = {
                version: profile.parts[version].partitions[key].version for version in wanted if key in wanted[version]
            }
            for version in _reused(build, spool, key, digests):
                wanted[version].discard(key)
    for version, key, rows in in_background(scan_parts(source, build.spec, profile, wanted)):
        spool.add(version, key, rows)


def _reused(build: Build, spool: Spool, key: str, digests: Mapping[str, str]) -> set[str]:
    """Return the versions of files whose rows came from a partition's last raw records."""
    path = build.workspace.stage_file(RAW, key)
    try:
        table = open_stream(build.workspace, path)
        if table is None or read_stage_footer(table.schema, path)[1].split("-")[1] != build.spec.content_hash:
            return set()
        return spool.reuse(key, table, digests)
    except (CollectionError, IndexError, KeyError, TypeError):
        return set()  # so that the rows are read from the files


@timed
def _put_raw(
    workspace: Workspace, spec: CollectionSpec, spool: Spool, source: Source, profile: SourceProfile, key: str
) -> StageResult:
    path = workspace.stage_file(RAW, key)
    if key not in profile.partitions:
        workspace.remove(path)
        return StageResult(key=key, rows=0, version=REMOVED)
    version = profile.version(key, spec)
    if spool.rows[key] != profile.partitions[key].rows:
        raise SourceChangedError(
            f"{source.label}: {spool.rows[key]} rows of {key} were read where {profile.partitions[key].rows} were "
            "counted: the table is being rewritten; build again when that is done"
        )
    schema = with_stage_footer(spool.schema, profile, version)
    digests = {name: part.partitions[key].version for name, part in profile.parts.items() if key in part.partitions}
    written = spool.put(key, path, schema.metadata, digests)
    rows = spool.rows[key]
    spool.drop(key)
    return StageResult(key=key, rows=rows, version=version, size=written.size, path=path, schema=source.schema)
