"""The map of a published partition: where its footprints lie, and which records lack a header."""

from typing import Any

import dagster as dg
import numpy as np
import pyarrow.compute as pc

from rasteret_assets.collection.show.footprint_shapes import boxes_of, footprints_of
from rasteret_assets.collection.show.svg_map import DRAWN_SINGLY, density_map, footprint_map
from rasteret_assets.orchestration.markdown import picture
from rasteret_assets.pipeline.stage import StageResult
from rasteret_assets.schema import BBOX, GEOMETRY, is_band_field
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace import Workspace


def map_metadata(workspace: Workspace, spec: CollectionSpec, result: StageResult) -> dict[str, Any]:
    """Return a map of the published footprints, and how many records lack headers.

    Args:
        workspace: of the collection.
        spec: of the collection.
        result: of publishing the partition.
    """
    bands = [field.name for field in result.schema or () if is_band_field(field)]
    singly = result.rows <= DRAWN_SINGLY
    boxes, shapes, lacking = [np.empty((0, 4))], [np.empty(0, object)], [np.empty(0, bool)]
    places = [BBOX, GEOMETRY] if singly else [BBOX]
    # One leaf of a band's struct tells where it is null; the tile tables need not be read.
    for batch in workspace.read_batches(result.path, [*places, *(f"{band}.image_width" for band in bands)]):
        if singly:
            shapes.append(footprints_of(batch))
        else:
            boxes.append(boxes_of(batch))
        missing = np.zeros(batch.num_rows, bool)
        for band in bands:
            missing |= np.asarray(pc.is_null(batch.column(band)))
        lacking.append(missing)
    marked = np.concatenate(lacking)
    title = f"{spec.name} {result.key}: {result.rows:,} record{'' if result.rows == 1 else 's'}"
    if marked.any():
        title += f", {int(marked.sum()):,} without a header"
    if singly:
        drawn = footprint_map(np.concatenate(shapes), marked, title)
    else:
        drawn = density_map(np.concatenate(boxes), marked, title)
    shown = picture(f"Footprints of {spec.name} {result.key}", "image/svg+xml", drawn.encode())
    return {"footprints": dg.MetadataValue.md(shown), "records_lacking_headers": int(marked.sum())}
