"""How a collection behaves in the Dagster graph: owners, schedules, and what is expected of new data.

These options do not change what is published, so they are not part of a collection's content hash.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final
from zoneinfo import ZoneInfo, available_timezones

from pydantic import BaseModel, ConfigDict, Field, field_validator

_TEAM = re.compile(r"team:[A-Za-z0-9_-]+")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")

# Keys and values of tags that Dagster takes. They are checked here, because Dagster refuses them only when a code
# location is loaded, and then all collections of it are missing.
_TAG_KEY = re.compile(r"([A-Za-z0-9_.-]{1,63}/)?[A-Za-z0-9_.-]{1,63}", re.ASCII)
_TAG_KEY_FORM: Final = "write up to 63 letters, digits or _.- with or without a namespace/"
_KEY_PART: Final = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_TAG_VALUE = re.compile(r"[A-Za-z0-9_.-]{0,63}", re.ASCII)

# The five fields of a cron expression: their least and greatest value, and names from the first value on.
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_CRON: Final = (
    ("minute", 0, 59, ()), ("hour", 0, 23, ()), ("day", 1, 31, ()), ("month", 1, 12, _MONTHS), ("weekday", 0, 7, _DAYS),
)  # fmt: skip
_CRON_PART: Final = re.compile(
    r"(?:\*|(?P<first>[0-9]{1,2}|[a-z]{3})(?:-(?P<last>[0-9]{1,2}|[a-z]{3}))?)(?:/[1-9][0-9]?)?"
)
_CRON_WORDS: Final = {"@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"}


#: Address of a queue, which has no user, query or fragment.
_QUEUE: Final = re.compile(r"^https?://[A-Za-z0-9.:-]+/[0-9A-Za-z_./-]+$")


def _texts(pattern: str) -> dict[str, Any]:
    return {"items": {"type": "string", "pattern": f"^({pattern})$"}}


def _tags(key: str, value: str = ".*") -> dict[str, Any]:
    values = {"additionalProperties": {"type": "string", "pattern": f"^({value})$"}} if value != ".*" else {}
    return {"propertyNames": {"pattern": f"^({key})$"}, **values}


def _of_zones(schema: dict[str, Any]) -> None:
    """Put a pattern of the names of time zones into a JSON schema; names without a region are listed one by one."""
    plain = sorted(name for name in available_timezones() if "/" not in name)
    schema["pattern"] = f"^([A-Z][A-Za-z]+/.+|{'|'.join(map(re.escape, plain))})$"


# Form of a cron expression for editors and dg; the rest is checked when a declaration is read.
_CRON_FORM: Final[dict[str, Any]] = {"pattern": r"^ *(@[A-Za-z]+|[^ ]+( +[^ ]+){4}) *$"}


class GraphOptions(BaseModel):
    """Options of a collection's assets, sensors and schedules.

    Args:
        owners: who is asked about the collection: ``team:<name>`` or an e-mail address.
        tags: of every asset, shown and searched in the catalog.
        kinds: shown beside ``parquet`` on the published collection, such as ``sentinel2``.
        autostart: start the sensors ``<name>_refresh`` and ``<name>_retry`` with the code location, and the schedule
            ``<name>_harvest_schedule``; otherwise somebody starts them in the UI.
        refresh_seconds: how often the sensor checks the record table for changes, at most.
        refresh_cron: when the schedule ``<name>_refresh_schedule`` checks for changes, instead of the sensor.
        revalidate_cron: when ``<name>_revalidate_schedule`` asks whether known files have changed.
        harvest_cron: when the schedule ``<name>_harvest_schedule`` harvests STAC items, of a collection that is
            harvested.
        newest_item_within_hours: the check ``newest_item_is_recent`` warns where the newest harvested item is older.
        timezone: of all schedules.
        events_queue: address of an Amazon SQS queue whose messages (S3 notifications, or SNS messages that carry STAC
            items) make the sensor ``<name>_events`` check the record table at once. Messages are hints: only what
            differs is built.
        fresh_within_hours: the collection counts as stale in the catalog when nothing was published for so long; only
            for sources that are known to grow that often, since an unchanged source is not built again.
        preview: draw a picture of some pixels of every published partition, which takes a few range requests.
        run_tags: of every run of the collection's jobs, such as ``dagster/priority``, ``dagster-celery/queue`` or, as
            JSON, ``dagster-k8s/config``.
        op_tags: of every step, where an executor or a launcher asks for them there.
        key_prefix: parts that the collection's asset keys begin with, before its name.
        deps: keys of the assets that write the record table, which then stand upstream of ``source``; ``/`` separates
            the parts of a key.
        partitions_per_run: the most partitions that one run builds: what a crash may cost, and how coarse the progress
            in the UI is.
        headers_per_run: the most headers that one run of several partitions fetches, which is about a minute of one
            process for every half a million; a partition that needs more has a run of its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    owners: tuple[str, ...] = Field(default=(), json_schema_extra=_texts(f"{_TEAM.pattern}|{_EMAIL.pattern}"))
    tags: dict[str, str] = Field(
        default_factory=dict, json_schema_extra=_tags(_TAG_KEY.pattern, _TAG_VALUE.pattern)
    )  # fmt: skip
    kinds: tuple[str, ...] = Field(default=(), json_schema_extra={"maxItems": 1})
    autostart: bool = False
    refresh_seconds: int = Field(default=30, ge=1)
    refresh_cron: str = Field(default="0 6 * * *", json_schema_extra=_CRON_FORM)
    revalidate_cron: str = Field(default="0 3 * * 0", json_schema_extra=_CRON_FORM)
    harvest_cron: str = Field(default="0 5 * * *", json_schema_extra=_CRON_FORM)
    newest_item_within_hours: float | None = Field(default=None, gt=0, le=1_000_000)
    timezone: str = Field(default="UTC", json_schema_extra=_of_zones)
    events_queue: str | None = Field(default=None, json_schema_extra={"pattern": _QUEUE.pattern})
    fresh_within_hours: float | None = Field(default=None, ge=1 / 60, le=1_000_000)
    preview: bool = False
    run_tags: dict[str, str] = Field(default_factory=dict, json_schema_extra=_tags(_TAG_KEY.pattern))
    op_tags: dict[str, Any] = Field(default_factory=dict)
    key_prefix: tuple[str, ...] = Field(default=(), json_schema_extra=_texts(_KEY_PART.pattern))
    deps: tuple[str, ...] = Field(default=(), json_schema_extra=_texts(f"{_KEY_PART.pattern}(/{_KEY_PART.pattern})*"))
    partitions_per_run: int = Field(default=25, ge=1)
    headers_per_run: int = Field(default=500_000, ge=1)

    @field_validator("owners")
    @classmethod
    def _reachable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if odd := [owner for owner in value if not (_TEAM.fullmatch(owner) or _EMAIL.fullmatch(owner))]:
            raise ValueError(f"{odd} are not owners: write an e-mail address, or team: and a name, such as team:maps")
        return value

    @field_validator("kinds")
    @classmethod
    def _few(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > 1:
            raise ValueError("Dagster shows three kinds, of which two are parquet and geoparquet: name one")
        return value

    @field_validator("refresh_cron", "revalidate_cron", "harvest_cron")
    @classmethod
    def _regular(cls, value: str) -> str:
        if (wrong := _wrong_in_cron(value)) is not None:
            raise ValueError(
                f"{value!r} is not a cron expression: {wrong}; write such as '0 6 * * *', at 6:00 every day"
            )
        return value

    @field_validator("timezone")
    @classmethod
    def _on_earth(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (LookupError, ValueError, OSError):
            raise ValueError(f"{value!r} is not a timezone: write such as 'UTC' or 'Europe/Berlin'") from None
        return value

    @field_validator("events_queue")
    @classmethod
    def _is_queue(cls, value: str | None) -> str | None:
        if value is not None and not _QUEUE.fullmatch(value):
            raise ValueError(
                "it is not the address of a queue: write such as https://sqs.us-west-2.amazonaws.com/123456789012/items"
            )
        return value

    @field_validator("run_tags", "tags")
    @classmethod
    def _named(cls, value: dict[str, str]) -> dict[str, str]:
        if odd := [key for key in value if not _TAG_KEY.fullmatch(key)]:
            raise ValueError(f"{odd} are not keys of tags: {_TAG_KEY_FORM}")
        return value

    @field_validator("op_tags")
    @classmethod
    def _plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        if odd := [key for key, text in value.items() if not _is_json(text)]:
            raise ValueError(f"the tags {odd} have values that JSON does not keep as they are: write texts as keys")
        return value

    @field_validator("key_prefix")
    @classmethod
    def _parts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if odd := [part for part in value if not _KEY_PART.fullmatch(part)]:
            raise ValueError(f"{odd} are not parts of an asset key: write letters, digits, '_', '-' or '.'")
        return value

    @field_validator("deps")
    @classmethod
    def _keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if odd := [key for key in value if not all(map(_KEY_PART.fullmatch, key.split("/")))]:
            raise ValueError(
                f"{odd} are not asset keys: write parts of letters, digits, '_', '-' or '.' with '/' between them, "
                "such as catalog/items"
            )
        if len(set(value)) < len(value):
            raise ValueError(f"{list(value)} name an asset twice")
        return value

    @field_validator("tags")
    @classmethod
    def _short(cls, value: dict[str, str]) -> dict[str, str]:
        if odd := [key for key, text in value.items() if not _TAG_VALUE.fullmatch(text)]:
            raise ValueError(f"the tags {odd} have values that Dagster refuses: write up to 63 letters, digits or _.-")
        return value


def _is_json(value: object) -> bool:
    """Tell whether a value is the same after it was written as JSON, as Dagster asks of tags."""
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def _wrong_in_cron(text: str) -> str | None:
    """Tell what is wrong with a cron expression; None for a right one."""
    if text.lower() in _CRON_WORDS:
        return None
    fields = text.lower().split()
    if len(fields) != len(_CRON):
        return f"it has {len(fields)} fields and not the five of minute, hour, day, month and weekday"
    for field, (name, least, greatest, names) in zip(fields, _CRON, strict=True):
        for part in field.split(","):
            found = _CRON_PART.fullmatch(part)
            ends = [end for end in (found["first"], found["last"]) if end is not None] if found else []
            places = [int(end) if end.isdigit() else least + names.index(end) if end in names else -1 for end in ends]
            if found is None or not all(least <= place <= greatest for place in places) or places != sorted(places):
                return f"{part!r} is not a {name}"
    return None
