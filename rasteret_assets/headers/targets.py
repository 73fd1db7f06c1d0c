"""Find the targets of a partition's ledger (a record and band each), and the distinct files that hold their headers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.columns.assets import asset_field, raster_rows
from rasteret_assets.columns.types import plain
from rasteret_assets.error_classes import ErrorClass
from rasteret_assets.headers.outcomes import HeaderTarget
from rasteret_assets.headers.places import Places, Refusal
from rasteret_assets.schema import ASSETS, BAND_INDEX, HREF, ID, IDENTITY, IDENTITY_TYPE, PROJ_EPSG, STATUS_OK
from rasteret_assets.secrets import BY_DEFAULT, SecretRule
from rasteret_assets.storage.addresses.address import identity_hashes, unsigned_hrefs
from rasteret_assets.storage.backend import Validators
from rasteret_assets.storage.process.collector import fewer_collections

#: Column of targets: the CRS that the record states, which is compared with the header's.
STATED_EPSG: Final = "stated_epsg"
_CARRIED: Final = {ID: ID, STATED_EPSG: PROJ_EPSG}

#: Columns of normalized records that targets are made from.
TARGET_COLUMNS: Final = (*_CARRIED.values(), ASSETS)


def ledger_targets(
    records: pa.Table, bands: Sequence[str], *, explicit: bool, places: Places, rule: SecretRule = BY_DEFAULT
) -> pa.Table:
    """Return one row per record and band, with the address of its file in three forms, and errors in the record.

    ``signed`` is fetched and never stored; ``identity`` tells which file it is; ``href`` is stored and published.

    Args:
        records: with :data:`TARGET_COLUMNS`.
        bands: assets to read.
        explicit: whether the bands were chosen by name; otherwise rows whose asset is not a raster are left out.
        places: which addresses may be asked.
        rule: which parameters of an address are secrets.
    """
    assets = records[ASSETS].combine_chunks()
    carried = {name: records[column].combine_chunks() for name, column in _CARRIED.items()}
    parts, order = [], []
    fields = list(assets.type) if pa.types.is_struct(assets.type) else []
    present = {child.name: position for position, child in enumerate(fields)}
    for rank, band in enumerate(bands):
        if band not in present:
            continue
        asset = pc.struct_field(assets, [present[band]])
        chosen = pc.is_valid(asset) if explicit else raster_rows(asset)
        rows = np.flatnonzero(np.asarray(chosen))
        asset = asset.take(pa.array(rows))
        href = asset_field(asset, HREF)
        index, bad_index = _band_indices(asset)
        wrong = [
            (Refusal(ErrorClass.NO_HREF, f"the record's asset {band!r} has no href"), pc.is_null(href)),
            (Refusal(ErrorClass.INVALID_BAND_INDEX, f"band_index of asset {band!r} is not 0, 1, 2, ..."), bad_index),
            *((refusal, pa.array(mask)) for refusal, mask in places.refused(href)),
        ]
        masks = pc.make_struct(*(mask for _, mask in wrong))
        error_class = pc.case_when(masks, *(refusal.error_class for refusal, _ in wrong))
        error = pc.case_when(masks, *(refusal.error for refusal, _ in wrong))
        parts.append(pa.table({
            **{name: column.take(pa.array(rows)) for name, column in carried.items()},
            "band": pa.array([band] * len(rows), pa.string()), "signed": href,
            HREF: unsigned_hrefs(href, rule), IDENTITY: identity_hashes(href), BAND_INDEX: index,
            "error_class": error_class.cast(pa.string()), "error": error.cast(pa.string()),
        }))  # fmt: skip
        order.append(rows * len(bands) + rank)
    if not parts:
        texts = (ID, "band", "signed", HREF, "error_class", "error")
        kinds = {IDENTITY: IDENTITY_TYPE, BAND_INDEX: pa.int32(), STATED_EPSG: pa.int32()}
        names = {**dict.fromkeys(texts, pa.string()), **kinds}
        return pa.schema(list(names.items())).empty_table()
    return pa.concat_tables(parts).combine_chunks().take(pa.array(np.argsort(np.concatenate(order), kind="stable")))


def _band_indices(asset: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Return the 0-based sample of every row (0 if the asset names none), and a mask of invalid ones."""
    rows = len(asset)
    if BAND_INDEX not in {child.name for child in asset.type}:
        return pa.array(np.zeros(rows, np.int32)), pa.array(np.zeros(rows, bool))
    text = pc.utf8_trim_whitespace(plain(asset_field(asset, BAND_INDEX)).cast(pa.string()))
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    good = pc.fill_null(pc.match_substring_regex(text, r"^\+?\d{1,9}(\.0+)?$"), fill_value=False)
    number = pc.replace_substring_regex(pc.if_else(good, text, "0"), r"^\+|\.0+$", "").cast(pa.int32())
    return number, pc.and_(pc.is_valid(text), pc.invert(good))


def distinct_files(
    targets: pa.Table, wanted: npt.NDArray[np.bool_], validators: pa.Table | None
) -> tuple[list[HeaderTarget], npt.NDArray[np.int64]]:
    """Return the files to ask for, each once, and for every target the position of its file (-1 for none).

    Args:
        targets: rows of the ledger, as :func:`ledger_targets` returns them.
        wanted: which targets need their header, ``bool[N]``.
        validators: validators of the stored headers, by target; None where no header is revalidated.
    """
    file_of_row = np.full(targets.num_rows, -1, np.int64)
    asked = needed = wanted
    if validators is not None:
        tagged = pc.or_(pc.is_valid(validators["etag"]), pc.is_valid(validators["last_modified"]))
        is_revalidated = pc.and_(pc.equal(validators["status"], STATUS_OK), tagged)
        asked = needed | np.asarray(pc.fill_null(is_revalidated, fill_value=False))
    rows = np.flatnonzero(asked)
    if not len(rows):
        return [], file_of_row
    encoded = targets[IDENTITY].combine_chunks().take(pa.array(rows)).dictionary_encode()
    codes = np.asarray(encoded.indices)
    file_of_row[rows] = codes
    _, first = np.unique(codes, return_index=True)
    # A file that some target needs is read without conditions, even if its header is stored for another target.
    conditional = np.ones(len(first), bool)
    conditional[codes[needed[rows]]] = False
    chosen = targets.select(["signed", "band"]).take(pa.array(rows[first]))
    stored_validators: list[Validators | None] = [None] * len(first)
    if validators is not None:
        tags = validators.take(pa.array(rows[first]))
        pairs = zip(tags["etag"].to_pylist(), tags["last_modified"].to_pylist(), conditional, strict=True)
        stored_validators = [Validators(etag, modified) if condition else None for etag, modified, condition in pairs]
    addresses = zip(chosen["signed"].to_pylist(), chosen["band"].to_pylist(), stored_validators, strict=True)
    with fewer_collections():
        return list(map(HeaderTarget._make, addresses)), file_of_row
