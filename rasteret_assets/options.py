"""How a collection behaves in the Dagster graph: who owns it, when it is looked at, what is expected of it.

None of it changes what is published, so none of it is part of a collection's content hash.
"""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict, Field, field_validator

_TEAM = re.compile(r"team:[A-Za-z0-9_-]+")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


class GraphOptions(BaseModel):
    """Options of a collection's assets, sensors and schedules.

    Args:
        owners: who is asked about the collection: ``team:<name>`` or an e-mail address.
        tags: of every asset, shown and searched in the catalog.
        kinds: shown beside ``parquet`` on the published collection, such as ``sentinel2``.
        autostart: start the sensors ``<name>_refresh`` and ``<name>_retry`` with the code location; otherwise somebody
            starts them in the UI.
        refresh_seconds: how often the sensor looks at the source, at most.
        refresh_cron: when the schedule ``<name>_refresh_schedule`` looks for changes, for those who prefer a clock to
            the sensor.
        revalidate_cron: when ``<name>_revalidate_schedule`` asks whether known files have changed.
        timezone: of both.
        fresh_within_hours: the collection counts as stale in the catalog when nothing was published for so long; only
            for sources that are known to grow that often, since an unchanged source is not built again.
        automation: build by Dagster's declarative automation instead of the sensor; its limits are in the docs.
        preview: draw a picture of some pixels of every published partition, which takes a few range requests.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    owners: tuple[str, ...] = ()
    tags: dict[str, str] = Field(default_factory=dict)
    kinds: tuple[str, ...] = ()
    autostart: bool = False
    refresh_seconds: int = Field(default=30, ge=1)
    refresh_cron: str = "0 6 * * *"
    revalidate_cron: str = "0 3 * * 0"
    timezone: str = "UTC"
    fresh_within_hours: float | None = Field(default=None, gt=0)
    automation: bool = False
    preview: bool = False

    @field_validator("owners")
    @classmethod
    def _reachable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if odd := [owner for owner in value if not (_TEAM.fullmatch(owner) or _EMAIL.fullmatch(owner))]:
            raise ValueError(f"{odd} are no owners: write an e-mail address, or team: and a name, such as team:maps")
        return value

    @field_validator("kinds")
    @classmethod
    def _few(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(value) > 1:
            raise ValueError("Dagster shows three kinds, of which two are parquet and geoparquet: name one")
        return value
