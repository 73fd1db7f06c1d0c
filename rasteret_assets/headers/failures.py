"""Read the failures in the ledgers of a workspace as one table: which headers are missing, why, and what to do.

The ledgers are the ``band_metadata`` tables that :mod:`~rasteret_assets.headers.band_metadata` writes, one per
partition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from rasteret_assets.error_classes import ErrorClass
from rasteret_assets.errors import CollectionError
from rasteret_assets.headers.retried import are_retried
from rasteret_assets.partitions import partition_date
from rasteret_assets.schema import BANDS, HREF, ID, RETRY_UNTIL, TIMESTAMP
from rasteret_assets.storage.addresses.address import redacted_hrefs, redacted_texts
from rasteret_assets.storage.addresses.urls import host
from rasteret_assets.storage.workspace import Workspace

#: Stands for the host of hrefs of local files.
LOCAL_FILES: Final = "local files"

#: One row per header that is missing or in conflict with its record.
FAILURES_SCHEMA: Final = pa.schema(
    [
        (ID, pa.string()),
        ("band", pa.string()),
        (HREF, pa.string()),
        ("host", pa.string()),
        ("status", pa.string()),
        ("error_class", pa.string()),
        ("error", pa.string()),
        ("attempts", pa.int32()),
        ("attempted_at", TIMESTAMP),
        (RETRY_UNTIL, TIMESTAMP),
        ("partition", pa.string()),
    ]
)

#: One row per error class and host, the commonest first. A build that runs now tries ``retried`` of the headers again;
#: missing files among them are tried until ``retry_until`` at most.
SUMMARY_SCHEMA: Final = pa.schema(
    [
        ("error_class", pa.string()),
        ("host", pa.string()),
        ("count", pa.int64()),
        ("share", pa.float64()),
        ("retried", pa.int64()),
        (RETRY_UNTIL, TIMESTAMP),
        ("remedy", pa.string()),
        ("example_href", pa.string()),
        ("example_error", pa.string()),
    ]
)

#: What to do about a failure, by the error classes that a ledger may hold.
REMEDIES: Final[dict[str, str]] = {kind.value: kind.remedy for kind in ErrorClass if kind.retry is not None}
_OTHER_REMEDY: Final = "the error says what is wrong; correct that and build again"

#: Arrow's own name for the file a row of a dataset is from.
_FILE: Final = "__filename"
_STORED: Final = (ID, "band", HREF, "status", "error_class", "error", "attempts", "attempted_at", RETRY_UNTIL)


@dataclass(frozen=True, kw_only=True)
class Failures:
    """The missing headers of a collection, and the headers in another CRS than their record says.

    Args:
        table: rows of :data:`FAILURES_SCHEMA`, by partition and then in ledger order.
        headers: number of rows in all ledgers, of which the failures are a share.
    """

    table: pa.Table
    headers: int

    def select(self, *, error_class: str | None = None, host: str | None = None) -> Failures:
        """Return the failures of one class, of one host, or of both.

        Args:
            error_class: as in the ledger; any class when omitted.
            host: with its port, in upper or lower case, or :data:`LOCAL_FILES`; any host when omitted.
        """
        table = self.table
        if error_class is not None:
            table = table.filter(pc.field("error_class") == error_class)
        if host is not None:
            table = table.filter(pc.field("host") == host.lower())
        return Failures(table=table, headers=self.headers)

    @property
    def missing(self) -> int:
        """Number of missing headers; the other failures are conflicts with the record only."""
        return int(pc.sum(pc.not_equal(self.table["error_class"], ErrorClass.CRS_CONFLICT)).as_py() or 0)

    def summary(self) -> pa.Table:
        """Count missing and conflicting headers by error class and host, as rows of :data:`SUMMARY_SCHEMA`."""
        # Without threads groups keep the order of their rows, so that the examples are the first of each.
        rows = self.table.append_column("retried", pc.cast(are_retried(self.table), pa.int64()))
        grouped = rows.group_by(["error_class", "host"], use_threads=False).aggregate(
            [
                (ID, "count", pc.CountOptions(mode="all")), ("retried", "sum"), (RETRY_UNTIL, "max"),
                (HREF, "first"), ("error", "first"),
            ]
        )  # fmt: skip
        classes, counts = grouped["error_class"], grouped[f"{ID}_count"]
        remedies = [remedy(name) for name in classes.to_pylist()]  # a Python loop over few groups
        summary = pa.table(
            {
                "error_class": classes,
                "host": grouped["host"],
                "count": counts,
                "share": pc.divide(counts.cast(pa.float64()), pa.scalar(float(max(self.headers, 1)))),
                "retried": grouped["retried_sum"],
                RETRY_UNTIL: grouped[f"{RETRY_UNTIL}_max"],
                "remedy": pa.array(remedies, pa.string()),
                "example_href": grouped[f"{HREF}_first"],
                "example_error": grouped["error_first"],
            },
            SUMMARY_SCHEMA,
        )
        return summary.sort_by([("count", "descending"), ("error_class", "ascending"), ("host", "ascending")])


def remedy(error_class: str | None) -> str:
    """Return what to do about failures of a class, which may be one that only a later version knows."""
    return REMEDIES.get(error_class or "", _OTHER_REMEDY)


def failure_rows(counts: Mapping[str, int], total: int) -> list[dict[str, Any]]:
    """Return a row per error class, to be shown: number of headers, their share of ``total``, and what helps."""
    return [
        {"class": name, "headers": count, "share": round(count / total, 4), "what helps": remedy(name)}
        for name, count in counts.items()
    ]


def read_failures(workspace: Workspace) -> Failures:
    """Return the missing and conflicting headers in the ledgers of all partitions, without secrets.

    Raises:
        CollectionError: if the workspace has no ledger, or a ledger is damaged.
    """
    # Columns that an earlier version did not write are read as null.
    stored = pa.schema([FAILURES_SCHEMA.field(name) for name in _STORED])
    folder = f"{workspace.stages}/{BANDS}"
    try:
        files = _ledger_files(workspace.fs, folder)
        ledgers = ds.dataset(files, schema=stored, format="parquet", filesystem=workspace.fs) if files else None
        headers = ledgers.count_rows() if ledgers else 0
        failed = ledgers.to_table([*_STORED, _FILE], filter=pc.field("error_class").is_valid()) if ledgers else None
    except (pa.ArrowInvalid, OSError) as error:
        raise CollectionError(
            f"{folder}: a ledger cannot be read ({error}); delete it and build its partition with force"
        ) from error
    if failed is None:
        raise CollectionError(
            f"no ledgers of headers in {folder}: name the folder a collection is published in (..._records), "
            "or its YAML file, and build it first"
        )
    # Arrays, because chunks (null or string, one per file) would complicate all steps below.
    rows = {name: failed[name].combine_chunks() for name in failed.column_names}
    rows["host"] = _hosts(rows[HREF])
    rows[HREF] = redacted_hrefs(rows[HREF])
    rows["error"] = redacted_texts(rows["error"])
    rows["partition"] = pc.replace_substring_regex(rows[_FILE], r"^.*/|\.parquet$", "")
    table = pa.table({name: rows[name] for name in FAILURES_SCHEMA.names}, FAILURES_SCHEMA)
    return Failures(table=table, headers=headers)


def _ledger_files(fs: pafs.FileSystem, folder: str) -> list[str]:
    """Return the paths of the ledgers, in order of partitions; other files in the folder are left out."""
    infos = fs.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    return sorted(info.path for info in infos if info.type == pafs.FileType.File and _is_ledger(info.base_name))


def _is_ledger(name: str) -> bool:
    try:
        partition_date(name.removesuffix(".parquet"))
    except ValueError:
        return False
    return name.endswith(".parquet")


def _hosts(hrefs: pa.Array) -> pa.Array:
    """Return the host of every href; null where the href is null."""
    # A Python loop over the few distinct origins, because Arrow has no kernel that parses an authority.
    origins = pc.struct_field(pc.extract_regex(hrefs, r"^(?P<origin>[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*)"), "origin")
    encoded = origins.dictionary_encode()
    names = pa.array([host(origin) or LOCAL_FILES for origin in encoded.dictionary.to_pylist()], pa.string())
    named = names.take(encoded.indices)
    return pc.if_else(pc.is_null(hrefs), pa.scalar(None, pa.string()), pc.fill_null(named, LOCAL_FILES))
