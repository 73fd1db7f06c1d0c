"""Types of the keyword values that make a spec, in every form that is understood, for type checkers and editors.

A spec keeps its values as tuples and models; people write lists, paths and dicts. ``tests/test_spec.py`` holds the
names to the fields of the models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Required, TypedDict

from rasteret_assets.inputs import FilterLike
from rasteret_assets.partitions import PartitionBy

if TYPE_CHECKING:
    from rasteret_assets.harvest_options import HarvestOptions, WindowSize
    from rasteret_assets.options import GraphOptions
    from rasteret_assets.spec import CloudConfig


class CloudOptions(TypedDict, total=False):
    """Values of a :class:`~rasteret_assets.CloudConfig` besides ``provider``."""

    requester_pays: bool
    region: str
    url_patterns: Mapping[str, str]


class CloudValues(CloudOptions):
    """Values of a :class:`~rasteret_assets.CloudConfig`."""

    provider: Required[str]


class HarvestValues(TypedDict, total=False):
    """Values of :class:`~rasteret_assets.harvest_options.HarvestOptions`."""

    stac_api: str | None
    stac_catalog: str | None
    collections: Sequence[str]
    bbox: Sequence[float] | None
    intersects: Mapping[str, Any] | None
    datetime: str | None
    query: Mapping[str, Any]
    filter: Mapping[str, Any] | None
    band_map: Mapping[str, str]
    band_index_map: Mapping[str, int]
    window: WindowSize
    max_items_per_window: int
    lookback_days: float
    full_every: float
    limit: int
    trust_count: bool


class GraphValues(TypedDict, total=False):
    """Values of :class:`~rasteret_assets.options.GraphOptions`."""

    owners: Sequence[str]
    tags: Mapping[str, str]
    kinds: Sequence[str]
    autostart: bool
    refresh_seconds: int
    refresh_cron: str
    revalidate_cron: str
    harvest_cron: str
    newest_item_within_hours: float | None
    timezone: str
    events_queue: str | None
    fresh_within_hours: float | None
    preview: bool
    run_tags: Mapping[str, str]
    op_tags: Mapping[str, Any]
    key_prefix: Sequence[str]
    deps: Sequence[str]
    partitions_per_run: int
    headers_per_run: int


class SpecValues(TypedDict, total=False):
    """Values of a :class:`~rasteret_assets.CollectionSpec`."""

    harvest: HarvestOptions | HarvestValues | None
    path: str | Path | Sequence[str | Path]
    name: str
    data_source: str
    workspace_dir: str | Path | None
    column_map: Mapping[str, str] | None
    href_column: str | None
    band_index_map: Mapping[str, int] | None
    url_rewrite_patterns: Mapping[str, str] | None
    columns: Sequence[str] | None
    filter_expr: FilterLike | None
    enrich_cog: bool
    band_codes: Sequence[str] | None
    overviews: bool
    cloud_config: CloudConfig | CloudValues | None
    max_concurrent: int
    force: bool
    description: str
    max_rejected: float
    interval_partition: Literal["undated", "start_datetime"]
    partition_by: PartitionBy
    geometry_encoding: Literal["wkb", "native"]
    describe_assets: bool
    local_files: Literal["refuse", "allow"]
    link_local: Literal["refuse", "allow"]
    credentials: str | Mapping[str, str] | None
    license: str
    max_failed: float
    retry_missing_for: float
    graph: GraphOptions | GraphValues
    secret_query: Sequence[str]
    keep_query: Sequence[str]
    overlap: str | None
