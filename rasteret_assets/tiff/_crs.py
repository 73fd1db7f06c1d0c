"""Find the CRS of GeoKeys: check EPSG codes, and build user-defined CRSs with PROJ.

GeoKeys may spell a CRS out: datum or ellipsoid, projection and units (OGC 19-008r4 section 7.4). Such a CRS is put
together as PROJJSON, of which PROJ writes the WKT, with the shift of its datum to WGS 84 around it. For projections
without a code in GeoTIFF, and for all CRSs of ArcGIS, a citation holds the CRS as WKT of ESRI or GDAL. If a part is
missing, the CRS is ``None``, because no CRS is better than a guessed one.
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

#: Codes of EPSG in GeoTIFF (OGC 19-008r4 section 7.4); smaller ones are obsolete, those above 32767 private.
EPSG_CODES: Final = range(1024, USER_DEFINED)

#: Web Mercator and the WGS 84 UTM zones, the CRSs of most files, are known to be in metres, so PROJ is not asked.
_METRE_CODES: Final = frozenset({3857, *range(32601, 32661), *range(32701, 32761)})

_METRE: Final = 9001
_ANGULAR_UNITS: Final = {9101: 180 / math.pi, 9102: 1.0, 9105: 0.9, 9106: 0.9, 9122: 1.0}
_GREENWICH: Final = 8901

#: Relative difference that tells two units apart; the foot and the US survey foot differ by 2e-6.
_UNIT_TOLERANCE: Final = 1e-7

#: PROJ's confidence, of 100, if every parameter agrees but the names do not. Below this number PROJ guesses, for
#: example from a datum without a name.
_EQUIVALENT: Final = 70

_CITATIONS: Final = (GeoKey.PROJECTED_CITATION, GeoKey.GEOG_CITATION, GeoKey.GT_CITATION)
_ESRI_CITATION: Final = "ESRI PE String = "

#: PROJ string that GDAL adds to a WKT for what WKT 1 cannot express, such as the sweep axis of a geostationary
#: satellite.
_EXTENSION: Final = re.compile(r'EXTENSION\["PROJ4","([^"]*)"\]')
#: Terms that are accepted in such a string: numbers and names, none of which makes PROJ open a file.
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
    """Return the horizontal CRS of the model type; codes of vertical CRSs are ignored.

    Args:
        keys: the GeoKeys of the file.

    Returns:
        ``(code, "EPSG:code")``, ``(None, WKT2)`` for a user-defined CRS, or ``(None, None)`` without a CRS.
    """
    model = keys.get(GeoKey.GT_MODEL_TYPE)
    projected, geographic = _code(keys, GeoKey.PROJECTED_CS_TYPE), _code(keys, GeoKey.GEOGRAPHIC_TYPE)
    if not isinstance(model, int) or (model == USER_DEFINED and projected is not None):
        model = None if projected is None else MODEL_PROJECTED  # as in GDAL, because some writers omit the model type
    if model == MODEL_PROJECTED:
        code = projected
        unit = keys.get(GeoKey.PROJ_LINEAR_UNITS, _METRE)
        certain = code in _METRE_CODES and unit == _METRE and geographic in (None, 4326)
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
    """Return the EPSG code in a key; None for a measure or a text in the place of a code."""
    value = keys.get(key)
    return value if isinstance(value, int) and value in EPSG_CODES else None


def _read_citation(keys: Keys) -> Resolved:
    """Return the CRS that a citation holds as WKT of ESRI or GDAL; ``(None, None)`` for any other text."""
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
    """Return whether the PROJ strings in a WKT have accepted terms only; others could make PROJ open a file."""
    strings = _EXTENSION.findall(wkt)
    terms = [term for string in strings for term in string.split()]
    return len(strings) == wkt.upper().count("EXTENSION") and all(map(_PROJ_TERM.fullmatch, terms))


def _name(code: int | None) -> Resolved:
    return (None, None) if code is None else (code, f"EPSG:{code}")


def _proj() -> Any:
    """Return the pyproj module, imported late, because it loads as slowly as thousands of headers, and few need it."""
    import pyproj  # noqa: PLC0415
    import pyproj.crs  # noqa: PLC0415
    import pyproj.crs.coordinate_operation  # noqa: PLC0415
    import pyproj.database  # noqa: PLC0415

    return pyproj


def _check_code(code: int | None, keys: Keys) -> Resolved:
    """Return the CRS of a code; a linear unit or a geographic CRS beside the code takes precedence, as in GDAL."""
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
    """Return a CRS made of its parameters."""
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
    """Return the WKT2 of a PROJJSON definition, or the code of the EPSG CRS that PROJ finds equivalent to it.

    Args:
        definition: of a geographic or projected CRS.
        identify: whether to look for the code.
        shift: shift of the datum to WGS 84, from :func:`_datum_shift`; a CRS with a shift has no code.
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
    """Return the geographic CRS below a projection, in degrees; None if a part is missing."""
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
    """Return the seven parameters of GeogTOWGS84GeoKey (metres, arc seconds, parts per million); empty if missing.

    Empty also for a geographic CRS with a code, for which PROJ knows the shift, as in GDAL.
    """
    shift = keys.get(GeoKey.GEOG_TOWGS84)
    if not isinstance(shift, tuple) or len(shift) not in (3, 7) or _code(keys, GeoKey.GEOGRAPHIC_TYPE) is not None:
        return ()
    return (*shift, 0.0, 0.0, 0.0, 0.0)[:7] if all(map(math.isfinite, shift)) else ()


def _has_code(base: dict[str, Any]) -> bool:
    """Return whether a geographic CRS or its datum has an EPSG code, rather than just an ellipsoid."""
    return "id" in base or "id" in _datum(base)


def _datum(base: dict[str, Any]) -> dict[str, Any]:
    """Return the datum or datum ensemble of a geographic CRS."""
    return dict(base.get("datum") or base.get("datum_ensemble") or {})


def _same_ellipsoid(keys: Keys, datum: dict[str, Any]) -> bool:
    """Return whether a datum has the file's semi-major axis; if they differ, GDAL takes the file's axis."""
    ellipsoid = datum.get("ellipsoid", {})
    own = ellipsoid.get("semi_major_axis", ellipsoid.get("radius"))
    stated = keys.get(GeoKey.GEOG_SEMI_MAJOR_AXIS)
    if stated is None or not isinstance(own, int | float):  # an axis in another unit than metres is not compared
        return bool(ellipsoid)
    return isinstance(stated, float) and math.isclose(own, stated, rel_tol=_UNIT_TOLERANCE)


def _build_ellipsoid(keys: Keys, proj: Any) -> dict[str, Any] | None:
    """Return the ellipsoid of the axes, or of the code if the file has no axes, as in libgeotiff."""
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
    """Return the longitude of the prime meridian in degrees; None if it is missing or invalid."""
    code = keys.get(GeoKey.GEOG_PRIME_MERIDIAN, _GREENWICH)
    longitude = keys.get(GeoKey.GEOG_PRIME_MERIDIAN_LONG, 0.0 if code == _GREENWICH else None)
    return longitude if isinstance(longitude, float) and -360 <= longitude <= 360 else None


def _linear_factor(keys: Keys) -> float | None:
    """Return the metres in the file's linear unit, which is the metre if no unit is named; None if it is unknown."""
    code = keys.get(GeoKey.PROJ_LINEAR_UNITS, _METRE)
    if code == USER_DEFINED:
        size = keys.get(GeoKey.PROJ_LINEAR_UNIT_SIZE)
        return size if isinstance(size, float) and 0 < size < math.inf else None
    return _epsg_lengths().get(str(code))


@lru_cache(maxsize=1)
def _epsg_lengths() -> dict[str, float]:
    """Return the metres in each linear unit of EPSG, by code."""
    units = _proj().database.get_units_map(auth_name="EPSG", category="linear", allow_deprecated=True)
    return {unit.code: unit.conv_factor for unit in units.values() if unit.conv_factor > 0}


def _angular_factor(keys: Keys, base: Mapping[str, Any] | None = None) -> float | None:
    """Return the degrees in the file's angular unit, which is that of the geographic CRS ``base`` if none is named."""
    code = keys.get(GeoKey.GEOG_ANGULAR_UNITS)
    if code is not None:
        return _ANGULAR_UNITS.get(code) if isinstance(code, int) else None
    unit = "degree" if base is None else base["coordinate_system"]["axis"][0]["unit"]
    return 1.0 if isinstance(unit, str) else math.degrees(unit["conversion_factor"])


def _unit_json(factor: float) -> str | dict[str, Any]:
    return "metre" if factor == 1 else {"type": "LinearUnit", "name": "unknown", "conversion_factor": factor}
