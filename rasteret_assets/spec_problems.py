"""What is wrong with a spec, in sentences: contradictions between fields, and pydantic's errors explained."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, get_args

import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from rasteret_assets.spec import CollectionSpec

# Values are shortened, because those of YAML with aliases may be longer than memory is.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 200, 200


def contradictions(spec: CollectionSpec) -> Iterator[str]:
    """Yield a sentence for every contradiction between the fields of a spec."""
    yield from _href_problems(spec)
    yield from _band_problems(spec)
    yield from _column_problems(spec)


def _href_problems(spec: CollectionSpec) -> Iterator[str]:
    if spec.href_column and not spec.band_index_map:
        yield (
            f"href_column={spec.href_column!r} needs band_index_map, which names the bands of its files: "
            "write for example {'B02': 0}"
        )
    if spec.band_index_map and not spec.href_column:
        yield "band_index_map names the bands of the files in href_column, but href_column is not given"
    if both := spec.secrets.secret & spec.secrets.keep:
        yield f"{sorted(both)} stand in secret_query and in keep_query: a parameter is either published or not"
    if "" in spec.secrets.secret | spec.secrets.keep:
        yield "secret_query and keep_query hold names of parameters, with a letter or digit each"
    if "" in spec.url_rewrite_patterns:
        yield "url_rewrite_patterns has an empty prefix, which every href starts with"


def _band_problems(spec: CollectionSpec) -> Iterator[str]:
    if spec.band_codes is None:
        return
    if not spec.band_codes:
        yield "band_codes is empty: name bands, or leave it out for every raster asset"
    if double := sorted({band for band in spec.band_codes if spec.band_codes.count(band) > 1}):
        yield f"band_codes names {double} more than once"
    unknown = [band for band in spec.band_codes if band not in spec.band_index_map]
    if spec.band_index_map and unknown:
        yield f"band_codes asks for {unknown}, but band_index_map has only {sorted(spec.band_index_map)}"


def _column_problems(spec: CollectionSpec) -> Iterator[str]:
    if "" in spec.column_map or "" in spec.column_map.values():
        yield "column_map has an empty name"
    targets = list(spec.column_map.values())
    if double := sorted({target for target in targets if targets.count(target) > 1}):
        yield f"column_map maps several columns to {double}; each contract column has one source"
    if spec.columns is None:
        return
    named = {
        "href_column": [spec.href_column] if spec.href_column else [],
        "column_map": list(spec.column_map),
        "overlap": [spec.source_column(spec.newest_by)] if spec.newest_by else [],
    }
    for argument, wanted in named.items():
        if missing := [column for column in wanted if column not in spec.columns]:
            yield f"{argument} uses {missing}, which columns={list(spec.columns)} does not scan; add it"


def filter_tuples(value: object) -> list[list[tuple[str, str, Any]]]:
    """Return filters in disjunctive normal form, as pyarrow takes them: an OR of ANDs of ``(column, op, value)``.

    Args:
        value: of ``filter_expr``: a list of terms, which is one AND, or a list of such lists.

    Raises:
        ValueError: if ``value`` has another form.
    """
    form = 'write a list of [column, op, value], such as [["eo:cloud_cover", "<", 20]]'
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ValueError(f"{value!r} is not a filter: {form}")
    groups = value if isinstance(value[0], Sequence) and value[0] and not isinstance(value[0][0], str) else [value]
    result = []
    for group in groups:
        terms = []
        for term in group:
            if not isinstance(term, Sequence) or isinstance(term, str) or len(term) != 3:
                raise ValueError(f"{term!r} is not a filter term: {form}")
            column, op, operand = term
            terms.append((column, op, operand))
        result.append(terms)
    try:
        pq.filters_to_expression(result)
    except (ValueError, TypeError) as error:
        raise ValueError(f"filter {value!r} is not understood ({error}): {form}") from None
    return result


def explain(error: ValidationError, model: type[BaseModel]) -> list[tuple[tuple[str | int, ...], str]]:
    """Return the place of every problem of a pydantic error, and a sentence that names the nearest field it may mean.

    Args:
        error: of validating a model.
        model: that model.

    Returns:
        Place (keys and positions from the top; empty where several fields contradict) and sentence, in field order.
    """
    problems = []
    for item in error.errors(include_url=False):
        where = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            fields = _fields_beside(model, item["loc"])
            near = difflib.get_close_matches(str(item["loc"][-1]), fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(fields)}"
            sentence = f"unknown argument {where!r}: {hint}"
        elif item["type"] == "value_error":
            text = str(item["ctx"]["error"])
            sentence = f"{where}: {text}" if where else text
        elif item["type"] == "missing":
            *above, last = item["loc"]
            if isinstance(last, int):
                sentence = f"{'.'.join(map(str, above))}={_SHORT.repr(item['input'])}: value {last + 1} is missing"
            else:
                sentence = f"argument {where!r} is missing"
        else:
            sentence = f"{where}={_SHORT.repr(item['input'])}: {item['msg'].lower()}"
        problems.append((item["loc"], sentence))
    return problems


def _fields_beside(model: type[BaseModel], place: tuple[str | int, ...]) -> list[str]:
    """Return the fields of the model in which a place lies, counted from an outer model."""
    for part in place[:-1]:
        kind = model.model_fields[str(part)].annotation
        kinds = [found for found in (kind, *get_args(kind)) if isinstance(found, type)]
        model = next(found for found in kinds if issubclass(found, BaseModel))
    return list(model.model_fields)
