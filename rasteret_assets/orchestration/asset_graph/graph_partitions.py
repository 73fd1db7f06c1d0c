"""Define the partitions of a collection, with keys such as ``2024-05`` and ``undated``, and group them into runs.

The definition is dynamic and not monthly, because a collection may lack months, and because records that have no
datetime need a partition too. A key must be registered on the instance before a run can be launched for it.

https://docs.dagster.io/guides/build/partitions-and-backfills/partitioning-assets#dynamic-partitions
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from rasteret_assets.errors import SpecError
from rasteret_assets.options import GraphOptions
from rasteret_assets.orchestration.graph_names import identifier
from rasteret_assets.schema import PARSER_VERSION
from rasteret_assets.source.profile import SourceProfile
from rasteret_assets.spec import CollectionSpec

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
PARTITION = "dagster/partition"


def partitions_name(spec: CollectionSpec) -> str:
    """Return the name of a collection's partitions on the instance, which depends on the size of partitions."""
    return f"{identifier(spec.name)}_{spec.partition_by}s"


def partitions_of(spec: CollectionSpec) -> dg.DynamicPartitionsDefinition:
    """Return the partitions definition of a collection."""
    return dg.DynamicPartitionsDefinition(name=partitions_name(spec))


def windows_of(spec: CollectionSpec) -> dg.DynamicPartitionsDefinition:
    """Return the partitions definition of harvested items: a window of the harvest is a partition.

    The stages have other partitions: a window may be shorter than a month, or open, and an item that has an interval
    and no time may belong to another partition than the window's.
    """
    return dg.DynamicPartitionsDefinition(name=f"{identifier(spec.name)}_windows")


def discover_partitions(
    instance: dg.DagsterInstance, spec: CollectionSpec, profile: SourceProfile, published: Iterable[str] = ()
) -> list[str]:
    """Register the partitions of a source and of ``published``; return all registered keys.

    Args:
        instance: where keys are registered; keys that are registered already keep their place in the order.
        spec: of the collection.
        profile: of the source.
        published: keys to register beside the source's, so that a vanished partition can be unpublished.
    """
    name = partitions_name(spec)
    order = list(instance.get_dynamic_partitions(name))
    if new := in_order({*profile.partitions, *published} - set(order), profile.partitions):
        instance.add_dynamic_partitions(name, new)
    return order + new


def in_order(keys: Collection[str], of_source: Collection[str]) -> list[str]:
    """Return keys in the order to register: keys of the source first, so that ranges of them hold no other key."""
    return sorted(keys, key=lambda key: (key not in of_source, key))


def grouped(
    order: Sequence[str],
    keys: Collection[str],
    options: GraphOptions,
    headers: Mapping[str, int] | None = None,
    alone: Collection[str] = (),
) -> list[list[str]]:
    """Return partitions in groups, one for each run: neighbours in ``order``, as much as one run may build.

    Dagster's ranges follow the order in which dynamic keys were registered, which may differ from the calendar.

    Args:
        order: all partitions, in the order in which they are registered.
        keys: of the partitions to build.
        options: how much a run may take.
        headers: number of headers to fetch, by partition; a partition that is missing here fetches none.
        alone: partitions that get a run of their own.
    """
    wanted, weights = set(keys), headers or {}
    groups: list[list[str]] = []
    last, weight = -2, 0
    for position, key in enumerate(order):
        if key not in wanted:
            continue
        weight += weights.get(key, 0)
        is_neighbour = position == last + 1 and key not in alone and groups[-1][-1] not in alone
        if not is_neighbour or len(groups[-1]) == options.partitions_per_run or weight > options.headers_per_run:
            groups.append([])
            weight = weights.get(key, 0)
        groups[-1].append(key)
        last = position
    return groups


def headers_to_fetch(profile: SourceProfile, states: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Return about how many headers a build of each partition fetches: the headers of new records.

    Args:
        profile: of the source.
        states: of the published partitions; a partition whose headers another parser version read counts as new.
    """
    published = {
        key: int(state.get("rows", 0)) for key, state in states.items() if state.get("parser_version") == PARSER_VERSION
    }
    return {
        key: max(0, part.rows - published.get(key, 0)) * len(profile.bands) for key, part in profile.partitions.items()
    }


def selection_tags(group: Sequence[str]) -> dict[str, str]:
    """Return the run tags that select a contiguous group of partitions."""
    return {PARTITION: group[0]} if len(group) == 1 else {RANGE_START: group[0], RANGE_END: group[-1]}


def selected_keys(run: dg.DagsterRun, order: Sequence[str]) -> list[str]:
    """Return the partitions that a run was launched for; none if it has no partition."""
    tags = run.tags
    if PARTITION in tags:
        return [tags[PARTITION]]
    ends = tags.get(RANGE_START), tags.get(RANGE_END)
    if ends[0] not in order or ends[1] not in order:
        return []
    return list(order[order.index(ends[0]) : order.index(ends[1]) + 1])


def run_partitions(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> Sequence[str]:
    """Return the partitions that a step is to build or check.

    An empty range is refused, because Dagster lets its run succeed and shows partitions as materialized that no run
    built. A range is empty if its ends were registered in the opposite order.

    Raises:
        SpecError: if the range of the run is empty.
    """
    keys: Sequence[str] = context.partition_keys
    if not keys:
        raise SpecError(
            "the partition range of this run is empty: ranges follow the order in which partitions were registered, "
            "which may differ from the calendar; select the partitions one by one, or let the refresh sensor build them"
        )
    return keys
