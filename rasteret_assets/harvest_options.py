"""What a collection is harvested from: a STAC API or a static catalog, which items of it, and how often.

None of it is part of a collection's content hash, because a change of it changes what the harvested files hold, and
these are compared by content.
"""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

WindowSize = Literal["year", "month", "day"]

_DATE: Final = re.compile(r"(\d{4})(?:-(\d\d))?(?:-(\d\d))?")
_OPEN: Final = ("", "..")
_DATETIME_FORM: Final = "write such as 2024-01-01/2024-06-30, 2024-05, 2024-01-01/.. or 2024-01-01T12:00:00Z/.."


class Interval(NamedTuple):
    """A stretch of time in UTC, from ``start`` until right before ``end``; None where it is open."""

    start: datetime | None
    end: datetime | None


class HarvestOptions(BaseModel):
    """Which STAC items a collection is made of, and when they are asked for again.

    Args:
        stac_api: address of a STAC API, the page that its ``search`` link stands on. Either this or ``stac_catalog``.
        stac_catalog: path or address of a static catalog or collection (``catalog.json``), whose links are followed.
        collections: ids of the STAC collections to take items of; all when omitted.
        bbox: west, south, east, north in degrees: items that meet the box.
        intersects: GeoJSON geometry that items meet, in place of ``bbox``.
        datetime: of the items, as one date or an interval: ``2024``, ``2024-05``, ``2024-01-01/2024-06-30``,
            ``2024-01-01/..``. The last date counts as a whole. All of the catalog when omitted.
        query: of STAC's query extension, such as ``{"eo:cloud_cover": {"lt": 20}}``; only for an API.
        filter: of STAC's filter extension, as CQL2 JSON; only for an API.
        window: how much time is asked for, compared and stored at once: ``year``, ``month`` or ``day`` (of UTC). A
            window is one Parquet file, and is split where it has more items than ``max_items_per_window``.
        max_items_per_window: items above which a year is asked for by months, a month by days, a day by hours.
        lookback_days: windows of the last so many days are asked for again at every harvest of an API that neither
            filters nor sorts by ``updated``.
        full_every: days after which all windows are asked for again, which finds items that were deleted, and old ones
            that changed without a new ``updated``.
        limit: items that an API is asked for per page; some APIs answer with an error if a page is larger than 6 MB.
        band_map: ``{band: asset}``: only these assets are kept, under the names of the bands.
        band_index_map: ``{band: 0-based sample}`` where several bands of ``band_map`` are samples of one asset.
        trust_count: whether a window fails where an API says that more items match than it gives. Turn it off for an
            API whose counts are estimates.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stac_api: str | None = None
    stac_catalog: str | None = None
    collections: tuple[str, ...] = ()
    bbox: tuple[float, float, float, float] | None = None
    intersects: dict[str, Any] | None = None
    datetime: str | None = None
    query: dict[str, Any] = Field(default_factory=dict)
    filter: dict[str, Any] | None = None
    band_map: dict[str, str] = Field(default_factory=dict)
    band_index_map: dict[str, int] = Field(default_factory=dict)
    window: WindowSize = "month"
    max_items_per_window: int = Field(default=10_000, ge=1)
    lookback_days: float = Field(default=30.0, ge=0.0, le=36_600.0)
    full_every: float = Field(default=90.0, ge=0.0, le=36_600.0)
    limit: int = Field(default=100, ge=1, le=10_000)
    trust_count: bool = True

    #: Fields that decide how items are asked for, but not which.
    _MANNERS: ClassVar[frozenset[str]] = frozenset(
        {"max_items_per_window", "lookback_days", "full_every", "limit", "trust_count"}
    )

    @field_validator("stac_api")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None and not value.lower().startswith(("https://", "http://")):
            raise ValueError(
                f"{value!r} does not begin with https:// or http://: write the whole address of the API, or name a "
                "static catalog with stac_catalog"
            )
        return value

    @field_validator("collections", mode="before")
    @classmethod
    def _no_lone_name(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError(f"{value!r} is one name: write a list, [{value}]")  # noqa: TRY004  (pydantic's own)
        return value

    @field_validator("bbox")
    @classmethod
    def _on_earth(cls, value: tuple[float, float, float, float] | None) -> tuple[float, float, float, float] | None:
        if value is not None:
            west, south, east, north = value
            if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90):
                raise ValueError(f"{list(value)} is not a box: write west, south, east, north in degrees")
        return value

    @field_validator("intersects")
    @classmethod
    def _is_geometry(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None and not ("type" in value and ("coordinates" in value or "geometries" in value)):
            raise ValueError("it is not a GeoJSON geometry: write a mapping with type and coordinates")
        return value

    @field_validator("datetime", mode="before")
    @classmethod
    def _is_interval(cls, value: object) -> str | None:
        # YAML has years as numbers, and days as dates.
        text = None if value is None else str(value)
        if text is not None:
            interval_of(text)
        return text

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.stac_api is not None and self.stac_catalog is not None:
            raise ValueError("harvest has both stac_api and stac_catalog: leave one of them out")
        if self.stac_api is None and self.stac_catalog is None:
            raise ValueError("harvest needs one of stac_api and stac_catalog")
        if self.bbox is not None and self.intersects is not None:
            raise ValueError("bbox and intersects are given: STAC takes one of them")
        if unknown := sorted(self.band_index_map.keys() - self.band_map.keys()):
            raise ValueError(f"band_index_map names {unknown}, which band_map does not: say in which asset they are")
        if any(index < 0 for index in self.band_index_map.values()):
            raise ValueError(f"band indices count from 0: {self.band_index_map}")
        if self.stac_catalog is not None and (self.query or self.filter is not None):
            raise ValueError("query and filter are for an API: choose rows of a static catalog with filter_expr")
        return self

    @property
    def address(self) -> str:
        """Address of the API or the catalog."""
        return str(self.stac_api if self.stac_api is not None else self.stac_catalog)

    @property
    def is_remote(self) -> bool:
        """Whether items come from another machine, so that they may not name files of this one."""
        scheme, mark, _ = str(self.stac_catalog).partition("://")
        return self.stac_api is not None or (bool(mark) and scheme.lower() != "file")

    @property
    def interval(self) -> Interval:
        """The time that is harvested, which may be open on both sides."""
        return Interval(None, None) if self.datetime is None else interval_of(self.datetime)

    @property
    def question(self) -> dict[str, Any]:
        """All that decides which items are harvested, into which windows."""
        return self.model_dump(mode="json", exclude=set(self._MANNERS))


def interval_of(text: str) -> Interval:
    """Return the interval that a text of STAC's ``datetime`` means; a date counts as all of its year, month or day.

    Raises:
        ValueError: if the text is neither a date nor an interval.
    """
    first, slash, last = text.strip().partition("/")
    start = None if slash and first.strip() in _OPEN else _moments(first.strip())[0]
    if not slash:
        return Interval(start, _moments(first.strip())[1])
    end = None if last.strip() in _OPEN else _moments(last.strip())[1]
    if start is not None and end is not None and start >= end:
        raise ValueError(f"datetime {text!r} ends before it starts: {_DATETIME_FORM}")
    return Interval(start, end)


def _moments(text: str) -> tuple[datetime, datetime]:
    """Return the first moment of a date or instant, and the moment right after its end."""
    try:
        if found := _DATE.fullmatch(text):
            year, month, day = (int(part) if part else None for part in found.groups())
            start = datetime(int(year or 0), month or 1, day or 1, tzinfo=UTC)
            if month is None:
                return start, start.replace(year=start.year + 1)
            days = 1 if day else calendar.monthrange(start.year, start.month)[1]
            return start, start + timedelta(days=days)
        moment = datetime.fromisoformat(text)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        return moment, moment + timedelta(microseconds=1)
    except (ValueError, OverflowError):
        raise ValueError(f"datetime {text!r} is not understood: {_DATETIME_FORM}") from None
