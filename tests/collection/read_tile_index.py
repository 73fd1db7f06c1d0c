"""Reads windows of GDAL tile indexes with the rasterio of the interpreter that runs it, as ``test_gti.py`` asks.

Its argument is a JSON file: a list of (path, layer, [column, row, width, height]) and the file to write the pixels to.
"""

import json
import sys
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

task = json.loads(Path(sys.argv[1]).read_text())
arrays, facts = {}, []
opened = {}
for number, (path, layer, window) in enumerate(task["windows"]):
    if (path, layer) not in opened:
        opened[path, layer] = rasterio.open(path, **({} if layer is None else {"LAYER": layer}))
    source = opened[path, layer]
    arrays[f"pixels{number}"] = source.read(1, window=Window(*window))
    arrays[f"valid{number}"] = source.read_masks(1, window=Window(*window)) > 0
for (path, layer), source in opened.items():
    facts.append({
        "path": path, "layer": layer, "driver": source.driver, "crs": source.crs.to_wkt(), "nodata": source.nodata,
        "dtype": source.dtypes[0], "size": [source.width, source.height], "transform": list(source.transform)[:6],
        "colour": source.colorinterp[0].name, "scale": source.scales[0], "offset": source.offsets[0],
        "gdal": rasterio.__gdal_version__, "block": list(source.block_shapes[0]),
    })  # fmt: skip
np.savez(task["to"], **arrays)
sys.stdout.write(json.dumps(facts))
