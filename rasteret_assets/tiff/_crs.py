"""The CRS behind GeoKeys: EPSG codes checked, user-defined ones built with PROJ.

GeoKeys may spell a CRS out: datum or ellipsoid, projection and units (OGC 19-008r4 section 7.4). It is put together as
PROJJSON and handed to PROJ, which writes the WKT; the shift of a datum to WGS 84 is kept around it. For projections
that have no code in GeoTIFF, and for all of those of ArcGIS, a citation holds the CRS as ESRI's WKT, or GDAL's. What
is left open leaves the CRS open: ``None`` is better than a guess.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from rasteret_assets.tiff.constants import (
    MODEL_GEOCENTRIC,
    MODEL_GEOGRAPHIC,
    MODEL_PROJECTED,
    USER_DEFINED,
    GeoKey,
)
from rasteret_assets.tiff.projections import Keys, build_conversion

if TYPE_CHECKING:
    import pyproj

#: Codes GeoTIFF hands to EPSG (OGC 19-008r4 section 7.4); below are obsolete ones, above 32767 private ones.
EPSG_CODES: Final = range(1024, USER_DEFINED)

#: Web Mercator and the WGS 84 UTM zones, most files there are: they exist and are in metres, no need to ask PROJ.
_KNOWN_METRE_CODES: Final = frozenset({3857, *range(32601, 32661), *range(32701, 32761)})

_METRE: Final = 9001
_ANGULAR_UNITS: Final = {9101: 180 / math.pi, 9102: 1.0, 9105: 0.9, 9106: 0.9, 9122: 1.0}
_GREENWICH: Final = 8901

#: Relative difference that tells two units apart; the foot and the US survey foot differ by 2e-6.
_UNIT_TOLERANCE: Final = 1e-7

#: PROJ's confidence, of 100, where every parameter agrees and the names do not. Below it PROJ guesses, as it does from
#: a datum without a name.
_EQUIVALENT: Final = 70

_CITATIONS: Final = (GeoKey.PROJECTED_CITATION, GeoKey.GEOG_CITATION, GeoKey.GT_CITATION)
_ESRI_CITATION: Final = "ESRI PE String = "

#: GDAL adds a PROJ string to the WKT of what WKT 1 cannot say, such as the sweep axis of a geostationary satellite.
_EXTENSION: Final = re.compile(r'EXTENSION\["PROJ4","([^"]*)"\]')
#: Terms that are taken from such a string: numbers and names, none of which leads PROJ to a file.
_PROJ_TERM: Final = re.compile(
    r"\+(?:no_defs|wktext|over|type=crs|nadgrids=@null|proj=[a-z0-9_]+|sweep=[xy]|axis=[a-z]{3}"
    r"|(?:ellps|datum|pm|units)=[A-Za-z0-9_.-]+"
    r"|(?:lon_0|lat_0|lon_1|lat_1|lon_2|lat_2|lat_ts|lonc|alpha|gamma|azi|tilt|k|k_0|x_0|y_0|h|a|b|f|rf|R|zone"
    r"|to_meter)=[+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?"
    r"|towgs84=[-+0-9.eE,]+)"
)

Resolved = tuple[int | None, str | None]
"""EPSG code, and ``EPSG:n`` or WKT2."""


def resolve_crs(keys: Keys) -> Resolved:
    """The horizontal CRS that the model type asks for. Vertical codes say nothing about pixels.

    Args:
        keys: the GeoKeys of the file.

    Returns:
        ``(code, "EPSG:code")``, ``(None, WKT2)`` for a user-defined CRS, or twice ``None`` if there is none.
    """
    model = keys.get(GeoKey.GT_MODEL_TYPE)
    projected, geographic = _code(keys, GeoKey.PROJECTED_CS_TYPE), _code(keys, GeoKey.GEOGRAPHIC_TYPE)
    if not isinstance(model, int) or (model == USER_DEFINED and projected is not None):
        model = None if projected is None else MODEL_PROJECTED  # as GDAL does: some writers leave the model type out
    if model == MODEL_PROJECTED:
        code = projected
        unit = keys.get(GeoKey.PROJ_LINEAR_UNITS, _METRE)
        certain = code in _KNOWN_METRE_CODES and unit == _METRE and geographic in (None, 4326)
    elif model in (MODEL_GEOGRAPHIC, MODEL_GEOCENTRIC):
        code = geographic
        certain = code == 4326
    else:
        return _read_citation(keys)
    if code is not None:
        return _name(code) if certain else _check_code(code, keys)
    built = (None, None) if model == MODEL_GEOCENTRIC else _build(keys, model)
    return _read_citation(keys) if built == (None, None) else built


def _code(keys: Keys, key: GeoKey) -> int | None:
    """The EPSG code a key holds. A measure or a text in the place of a code is none, whatever it says."""
    value = keys.get(key)
    return value if isinstance(value, int) and value in EPSG_CODES else None


def _read_citation(keys: Keys) -> Resolved:
    """A CRS that a citation spells out as WKT, as ESRI and GDAL do; all others are texts for people, and no CRS."""
    texts = (keys.get(key) for key in _CITATIONS)
    found = next((text for text in texts if isinstance(text, str) and text.startswith(_ESRI_CITATION)), None)
    if found is None or not _has_harmless_extensions(found):
        return None, None
    proj = _proj()
    try:
        crs: pyproj.CRS = proj.CRS.from_wkt(found.removeprefix(_ESRI_CITATION).strip())
    except proj.exceptions.CRSError:
        return None, None
    if not (crs.is_projected or crs.is_geographic) or crs.is_compound:
        return None, None
    datum = crs.datum.name if crs.datum is not None else "unknown"
    return _describe(crs, identify="unknown" not in datum.lower())


def _has_harmless_extensions(wkt: str) -> bool:
    """Whether the PROJ strings in a WKT hold known terms only: by others, a file could name what PROJ is to open."""
    strings = _EXTENSION.findall(wkt)
    terms = [term for string in strings for term in string.split()]
    return len(strings) == wkt.upper().count("EXTENSION") and all(map(_PROJ_TERM.fullmatch, terms))


def _name(code: int | None) -> Resolved:
    return (None, None) if code is None else (code, f"EPSG:{code}")


def _proj() -> Any:
    """The pyproj module, imported here alone: it loads as slowly as thousands of headers parse; few files need it."""
    import pyproj  # noqa: PLC0415
    import pyproj.crs  # noqa: PLC0415
    import pyproj.crs.coordinate_operation  # noqa: PLC0415
    import pyproj.database  # noqa: PLC0415

    return pyproj


def _check_code(code: int | None, keys: Keys) -> Resolved:
    """A code that PROJ knows. A linear unit or a geographic CRS beside it wins over the code's own, as in GDAL."""
    proj = _proj()
    try:
        crs: pyproj.CRS = proj.CRS.from_epsg(code)
        if crs.is_compound:
            crs = crs.sub_crs_list[0]
            code = crs.to_epsg()
        if not crs.is_projected:
            return _name(code)
        factor = _linear_factor(keys) if GeoKey.PROJ_LINEAR_UNITS in keys else crs.axis_info[0].unit_conversion_factor
        own_base = crs.geodetic_crs.to_epsg() if crs.geodetic_crs else None
        base = _code(keys, GeoKey.GEOGRAPHIC_TYPE) or own_base
        if factor is None:
            return None, None
        same_unit = math.isclose(crs.axis_info[0].unit_conversion_factor, factor, rel_tol=_UNIT_TOLERANCE)
        if same_unit and base == own_base:
            return _name(code)
        definition = crs.to_json_dict()
        definition.pop("id", None)
        if base != own_base:
            definition["base_crs"] = proj.CRS.from_epsg(base).to_json_dict()
        if not same_unit:
            definition["coordinate_system"].pop("id", None)
            for axis in definition["coordinate_system"]["axis"]:
                axis["unit"] = _unit_json(factor)
    except proj.exceptions.CRSError:
        return None, None
    return _write(definition, identify=True)


def _build(keys: Keys, model: object) -> Resolved:
    """A CRS from its parameters."""
    proj = _proj()
    try:
        base = _build_base(keys, proj)
        if base is None:
            return None, None
        shift = _datum_shift(keys)
        if model == MODEL_GEOGRAPHIC:
            return _write(base, identify=_has_code(base), shift=shift)
        factor, degrees = _linear_factor(keys), _angular_factor(keys, base)
        if factor is None or degrees is None:
            return None, None
        projection = _code(keys, GeoKey.PROJECTION)
        if projection is not None:
            conversion = proj.crs.CoordinateOperation.from_epsg(projection).to_json_dict()
        else:
            conversion = build_conversion(keys, to_degrees=degrees, to_metres=factor)
    except proj.exceptions.CRSError:
        return None, None
    if conversion is None or conversion.get("type", "Conversion") != "Conversion":
        return None, None
    definition = {
        "type": "ProjectedCRS",
        "name": "unnamed",
        "base_crs": base,
        "conversion": conversion,
        "coordinate_system": {
            "subtype": "Cartesian",
            "axis": [
                {"name": "Easting", "abbreviation": "E", "direction": "east", "unit": _unit_json(factor)},
                {"name": "Northing", "abbreviation": "N", "direction": "north", "unit": _unit_json(factor)},
            ],
        },
    }
    return _write(definition, identify=_has_code(base), shift=shift)


def _write(definition: dict[str, Any], *, identify: bool, shift: tuple[float, ...] = ()) -> Resolved:
    """WKT2 of a PROJJSON definition, or the code of the EPSG CRS that PROJ finds equivalent to it.

    Args:
        definition: of a geographic or projected CRS.
        identify: whether to look for the code.
        shift: parameters that lead from its datum to WGS 84, from :func:`_datum_shift`; a CRS with these has no code.
    """
    proj = _proj()
    try:
        crs = proj.CRS.from_json_dict(definition)
        if not shift:
            return _describe(crs, identify=identify)
        way = proj.crs.coordinate_operation.ToWGS84Transformation(crs.geodetic_crs, *shift)
        return _describe(proj.crs.BoundCRS(crs, "EPSG:4326", way), identify=False)
    except proj.exceptions.CRSError:
        return None, None


def _describe(crs: pyproj.CRS, *, identify: bool) -> Resolved:
    code = crs.to_epsg(min_confidence=_EQUIVALENT) if identify else None
    return (None, crs.to_wkt()) if code is None else _name(code)


def _build_base(keys: Keys, proj: Any) -> dict[str, Any] | None:
    """The geographic CRS below a projection, in degrees."""
    code = _code(keys, GeoKey.GEOGRAPHIC_TYPE)
    if code is not None:
        crs = proj.CRS.from_epsg(code)
        if not crs.is_geographic:
            return None
        base: dict[str, Any] = crs.to_json_dict()
        if _same_ellipsoid(keys, _datum(base)):
            return base
    if _angular_factor(keys) != 1.0:
        return None
    datum_code = _code(keys, GeoKey.GEOG_GEODETIC_DATUM)
    datum: dict[str, Any] = {} if datum_code is None else proj.crs.Datum.from_epsg(datum_code).to_json_dict()
    if not _same_ellipsoid(keys, datum):
        ellipsoid, meridian = _build_ellipsoid(keys, proj), _prime_meridian(keys)
        if ellipsoid is None or meridian is None:
            return None
        datum = {
            "type": "GeodeticReferenceFrame",
            "name": "unknown",
            "ellipsoid": ellipsoid,
            "prime_meridian": {"name": "Greenwich" if meridian == 0 else "unknown", "longitude": meridian},
        }
    return {
        "type": "GeographicCRS",
        "name": "unknown",
        "datum_ensemble" if datum["type"] == "DatumEnsemble" else "datum": datum,
        "coordinate_system": {
            "subtype": "ellipsoidal",
            "axis": [
                {"name": "Latitude", "abbreviation": "lat", "direction": "north", "unit": "degree"},
                {"name": "Longitude", "abbreviation": "lon", "direction": "east", "unit": "degree"},
            ],
        },
    }


def _datum_shift(keys: Keys) -> tuple[float, ...]:
    """The seven parameters of GeogTOWGS84GeoKey, in metres, arc seconds and parts per million; empty without them.

    As in GDAL, a geographic CRS that has a code is shifted as PROJ knows for that code.
    """
    shift = keys.get(GeoKey.GEOG_TOWGS84)
    if not isinstance(shift, tuple) or len(shift) not in (3, 7) or _code(keys, GeoKey.GEOGRAPHIC_TYPE) is not None:
        return ()
    return (*shift, 0.0, 0.0, 0.0, 0.0)[:7] if all(map(math.isfinite, shift)) else ()


def _has_code(base: dict[str, Any]) -> bool:
    """Whether a geographic CRS or its datum is one that EPSG lists, and not just some ellipsoid."""
    return "id" in base or "id" in _datum(base)


def _datum(base: dict[str, Any]) -> dict[str, Any]:
    """The datum or datum ensemble of a geographic CRS."""
    return dict(base.get("datum") or base.get("datum_ensemble") or {})


def _same_ellipsoid(keys: Keys, datum: dict[str, Any]) -> bool:
    """Whether a datum has the file's semi-major axis, if that is given; GDAL takes the file's where they differ."""
    ellipsoid = datum.get("ellipsoid", {})
    own = ellipsoid.get("semi_major_axis", ellipsoid.get("radius"))
    stated = keys.get(GeoKey.GEOG_SEMI_MAJOR_AXIS)
    if stated is None or not isinstance(own, int | float):  # an axis in another unit than metres: the code is believed
        return bool(ellipsoid)
    return isinstance(stated, float) and math.isclose(own, stated, rel_tol=_UNIT_TOLERANCE)


def _build_ellipsoid(keys: Keys, proj: Any) -> dict[str, Any] | None:
    """The ellipsoid by its axes, which win over its code as in libgeotiff."""
    major, minor = keys.get(GeoKey.GEOG_SEMI_MAJOR_AXIS), keys.get(GeoKey.GEOG_SEMI_MINOR_AXIS)
    inverse = keys.get(GeoKey.GEOG_INV_FLATTENING)
    shape: dict[str, Any]
    if not isinstance(major, float):
        code = _code(keys, GeoKey.GEOG_ELLIPSOID)
        return None if code is None else dict(proj.crs.Ellipsoid.from_epsg(code).to_json_dict())
    if isinstance(inverse, float) and (inverse == 0 or inverse > 1):
        # An inverse flattening of 0 stands for a sphere.
        shape = {"inverse_flattening": inverse} if 0 < inverse < math.inf else {"semi_minor_axis": major}
    elif isinstance(minor, float) and 0 < minor <= major:
        shape = {"semi_minor_axis": minor}
    else:
        return None
    return {"name": "unknown", "semi_major_axis": major, **shape} if 0 < major < math.inf else None


def _prime_meridian(keys: Keys) -> float | None:
    """Longitude of the prime meridian in degrees."""
    code = keys.get(GeoKey.GEOG_PRIME_MERIDIAN, _GREENWICH)
    longitude = keys.get(GeoKey.GEOG_PRIME_MERIDIAN_LONG, 0.0 if code == _GREENWICH else None)
    return longitude if isinstance(longitude, float) and -360 <= longitude <= 360 else None


def _linear_factor(keys: Keys) -> float | None:
    """Metres in the file's linear unit; metres are meant where no unit is named."""
    code = keys.get(GeoKey.PROJ_LINEAR_UNITS, _METRE)
    if code == USER_DEFINED:
        size = keys.get(GeoKey.PROJ_LINEAR_UNIT_SIZE)
        return size if isinstance(size, float) and 0 < size < math.inf else None
    return _epsg_lengths().get(str(code))


@lru_cache(maxsize=1)
def _epsg_lengths() -> dict[str, float]:
    """Metres in each linear unit of EPSG, by code."""
    units = _proj().database.get_units_map(auth_name="EPSG", category="linear", allow_deprecated=True)
    return {unit.code: unit.conv_factor for unit in units.values() if unit.conv_factor > 0}


def _angular_factor(keys: Keys, base: Mapping[str, Any] | None = None) -> float | None:
    """Degrees in the file's angular unit. Where no unit is named, that of its geographic CRS is meant, else degrees."""
    code = keys.get(GeoKey.GEOG_ANGULAR_UNITS)
    if code is not None:
        return _ANGULAR_UNITS.get(code) if isinstance(code, int) else None
    unit = "degree" if base is None else base["coordinate_system"]["axis"][0]["unit"]
    return 1.0 if isinstance(unit, str) else math.degrees(unit["conversion_factor"])


def _unit_json(factor: float) -> str | dict[str, Any]:
    return "metre" if factor == 1 else {"type": "LinearUnit", "name": "unknown", "conversion_factor": factor}
