"""Map projections of GeoKeys as PROJJSON conversions, with the keys of each parameter.

The projections are those of ProjCoordTransGeoKey (OGC 19-008r4 annex C) with their EPSG methods. The keys that may hold
a parameter are tried in libgeotiff's order, because writers use different keys for it. Angles of the file are in its
angular unit and lengths in its linear unit; conversions have degrees and metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from rasteret_assets.tiff.constants import GeoKey

if TYPE_CHECKING:
    from collections.abc import Mapping

Keys = dict[int, int | float | str | tuple[float, ...]]
"""GeoKeys by number: codes are ints, measures floats, citations text, the shift of a datum a tuple of floats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One number of a projection."""

    name: str
    """EPSG's name of the parameter."""
    code: int
    """EPSG's code of the parameter."""
    unit: str
    """PROJJSON unit: ``degree``, ``metre`` or ``unity``."""
    keys: tuple[GeoKey, ...]
    """Keys that may hold the value, of which the first present one counts."""
    default: float | None = None
    """The value if no key is present; ``None`` for a parameter that the projection needs."""


_LATITUDES: Final = (GeoKey.PROJ_NAT_ORIGIN_LAT, GeoKey.PROJ_FALSE_ORIGIN_LAT, GeoKey.PROJ_CENTER_LAT)
_LONGITUDES: Final = (GeoKey.PROJ_NAT_ORIGIN_LONG, GeoKey.PROJ_FALSE_ORIGIN_LONG, GeoKey.PROJ_CENTER_LONG)
_EASTINGS: Final = (GeoKey.PROJ_FALSE_EASTING, GeoKey.PROJ_CENTER_EASTING, GeoKey.PROJ_FALSE_ORIGIN_EASTING)
_NORTHINGS: Final = (GeoKey.PROJ_FALSE_NORTHING, GeoKey.PROJ_CENTER_NORTHING, GeoKey.PROJ_FALSE_ORIGIN_NORTHING)


def _angle(name: str, code: int, keys: tuple[GeoKey, ...], default: float | None = None) -> Parameter:
    return Parameter(name=name, code=code, unit="degree", keys=keys, default=default)


_LAT: Final = _angle("Latitude of natural origin", 8801, _LATITUDES)
_LON: Final = _angle("Longitude of natural origin", 8802, _LONGITUDES)
_SCALE: Final = Parameter(
    name="Scale factor at natural origin",
    code=8805,
    unit="unity",
    keys=(GeoKey.PROJ_SCALE_AT_NAT_ORIGIN, GeoKey.PROJ_SCALE_AT_CENTER),
    default=1.0,
)
_SHIFT: Final = (
    Parameter(name="False easting", code=8806, unit="metre", keys=_EASTINGS, default=0.0),
    Parameter(name="False northing", code=8807, unit="metre", keys=_NORTHINGS, default=0.0),
)
_PARALLEL_1: Final = _angle("Latitude of 1st standard parallel", 8823, (GeoKey.PROJ_STD_PARALLEL_1,))
_CONIC: Final = (
    _angle("Latitude of false origin", 8821, (_LATITUDES[1], _LATITUDES[0], _LATITUDES[2])),
    _angle("Longitude of false origin", 8822, (_LONGITUDES[1], _LONGITUDES[0], _LONGITUDES[2])),
    _PARALLEL_1,
    _angle("Latitude of 2nd standard parallel", 8824, (GeoKey.PROJ_STD_PARALLEL_2,)),
    Parameter(name="Easting at false origin", code=8826, unit="metre", keys=_EASTINGS[::-1], default=0.0),
    Parameter(name="Northing at false origin", code=8827, unit="metre", keys=_NORTHINGS[::-1], default=0.0),
)
_POLE_LATITUDE: Final = (GeoKey.PROJ_NAT_ORIGIN_LAT, GeoKey.PROJ_STD_PARALLEL_1)
_POLE_LONGITUDE: Final = (GeoKey.PROJ_STRAIGHT_VERT_POLE_LONG, GeoKey.PROJ_NAT_ORIGIN_LONG)

_SKEWED: Final = (
    _angle("Latitude of projection centre", 8811, _LATITUDES),
    _angle("Longitude of projection centre", 8812, _LONGITUDES),
    _angle("Azimuth at projection centre", 8813, (GeoKey.PROJ_AZIMUTH_ANGLE,)),
    _angle("Angle from Rectified to Skew Grid", 8814, (GeoKey.PROJ_RECTIFIED_GRID_ANGLE,)),
    Parameter(name="Scale factor at projection centre", code=8815, unit="unity", keys=_SCALE.keys, default=1.0),
)

Method = tuple[str, int | None, tuple[Parameter, ...]]
"""EPSG's name and code of a projection method (no code: PROJ's own), and its parameters."""

_MERCATOR_A: Final[Method] = ("Mercator (variant A)", 9804, (_LAT, _LON, _SCALE, *_SHIFT))
_MERCATOR_B: Final[Method] = ("Mercator (variant B)", 9805, (_PARALLEL_1, _LON, *_SHIFT))
_POLAR_A: Final[Method] = (
    "Polar Stereographic (variant A)",
    9810,
    (
        _angle(_LAT.name, _LAT.code, _POLE_LATITUDE),
        _angle(_LON.name, _LON.code, _POLE_LONGITUDE),
        _SCALE,
        *_SHIFT,
    ),
)
_POLAR_B: Final[Method] = (
    "Polar Stereographic (variant B)",
    9829,
    (
        _angle("Latitude of standard parallel", 8832, _POLE_LATITUDE),
        _angle("Longitude of origin", 8833, _POLE_LONGITUDE),
        *_SHIFT,
    ),
)
_MERCATOR: Final = 7
_POLAR_STEREOGRAPHIC: Final = 15
_EQUIRECTANGULAR: Final = 17
_MILLER: Final = 20

#: EPSG methods by ProjCoordTransGeoKey. Other codes are not built: PROJ has no methods for 2 and 4 to 6, and writers
#: mean different things by 27, whose axes point south and west.
_METHODS: Final[Mapping[int, Method]] = {
    1: ("Transverse Mercator", 9807, (_LAT, _LON, _SCALE, *_SHIFT)),
    3: ("Hotine Oblique Mercator (variant A)", 9812, (*_SKEWED, *_SHIFT)),
    8: ("Lambert Conic Conformal (2SP)", 9802, _CONIC),
    9: ("Lambert Conic Conformal (1SP)", 9801, (_LAT, _LON, _SCALE, *_SHIFT)),
    10: ("Lambert Azimuthal Equal Area", 9820, (_LAT, _LON, *_SHIFT)),
    11: ("Albers Equal Area", 9822, _CONIC),
    12: ("Azimuthal Equidistant", 1125, (_LAT, _LON, *_SHIFT)),
    13: ("Equidistant Conic", 1119, _CONIC),
    14: ("Stereographic", None, (_LAT, _LON, _SCALE, *_SHIFT)),
    16: ("Oblique Stereographic", 9809, (_LAT, _LON, _SCALE, *_SHIFT)),
    _EQUIRECTANGULAR: (
        "Equidistant Cylindrical",
        1028,
        (_angle(_PARALLEL_1.name, 8823, _PARALLEL_1.keys, 0.0), _LON, *_SHIFT),
    ),
    18: ("Cassini-Soldner", 9806, (_LAT, _LON, *_SHIFT)),
    19: ("Gnomonic", None, (_LAT, _LON, *_SHIFT)),
    _MILLER: ("Miller Cylindrical", None, (_LON, *_SHIFT)),
    21: ("Orthographic", 9840, (_LAT, _LON, *_SHIFT)),
    22: ("American Polyconic", 9818, (_LAT, _LON, *_SHIFT)),
    23: ("Robinson", None, (_LON, *_SHIFT)),
    24: ("Sinusoidal", None, (_LON, *_SHIFT)),
    25: ("Van Der Grinten", None, (_LON, *_SHIFT)),
    26: ("New Zealand Map Grid", 9811, (_LAT, _LON, *_SHIFT)),
    28: ("Lambert Cylindrical Equal Area", 9835, (_PARALLEL_1, _LON, *_SHIFT)),
    # libgeotiff's own: the shift is that of the projection centre.
    9815: (
        "Hotine Oblique Mercator (variant B)",
        9815,
        (
            *_SKEWED,
            Parameter(name="Easting at projection centre", code=8816, unit="metre", keys=_EASTINGS, default=0.0),
            Parameter(name="Northing at projection centre", code=8817, unit="metre", keys=_NORTHINGS, default=0.0),
        ),
    ),
}


def build_conversion(keys: Keys, *, to_degrees: float, to_metres: float) -> dict[str, Any] | None:
    """Return the projection as a PROJJSON conversion; ``None`` if it is unknown or a parameter is missing.

    Args:
        keys: the GeoKeys of the file.
        to_degrees: size of the file's angular unit.
        to_metres: size of the file's linear unit.
    """
    method = _choose_method(keys)
    if method is None:
        return None
    name, code, parameters = method
    factors = {"degree": to_degrees, "metre": to_metres, "unity": 1.0}
    values = []
    for parameter in parameters:
        value = _first_number(keys, parameter.keys)
        if value is None:
            value = parameter.default
        if value is None:
            return None
        values.append(
            {
                "name": parameter.name,
                "value": value * factors[parameter.unit],
                "unit": parameter.unit,
                "id": {"authority": "EPSG", "code": parameter.code},
            }
        )
    method_json: dict[str, Any] = {"name": name}
    if code is not None:
        method_json["id"] = {"authority": "EPSG", "code": code}
    return {"name": "unnamed", "method": method_json, "parameters": values}


def _choose_method(keys: Keys) -> Method | None:
    """Return the EPSG method of ProjCoordTransGeoKey, two codes of which stand for two methods each."""
    code = keys.get(GeoKey.PROJ_COORD_TRANS)
    if not isinstance(code, int):
        return None
    unscaled = _first_number(keys, _SCALE.keys) in (None, 1.0)
    if code == _POLAR_STEREOGRAPHIC:
        if abs(_first_number(keys, _POLE_LATITUDE) or 0) == 90:
            return _POLAR_A
        return _POLAR_B if unscaled else None
    if code in (_MERCATOR, _EQUIRECTANGULAR, _MILLER) and _first_number(keys, _LATITUDES):
        return None  # because writers mean different things by an origin off the equator
    if code == _MERCATOR:
        return _MERCATOR_B if GeoKey.PROJ_STD_PARALLEL_1 in keys and unscaled else _MERCATOR_A
    return _METHODS.get(code)


def _first_number(keys: Keys, candidates: tuple[GeoKey, ...]) -> float | None:
    """Return the number of the first key that has one, if it is finite; else None."""
    for key in candidates:
        value = keys.get(key)
        if isinstance(value, float):
            return value if math.isfinite(value) else None
    return None
