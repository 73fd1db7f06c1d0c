"""Return pixels as one NumPy array."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rasteret_assets.collection.pixels.filling import fill
from rasteret_assets.collection.pixels.pixel_request import PixelRequest
from rasteret_assets.collection.pixels.planes import Plane
from rasteret_assets.collection.pixels.views import check_memory


def read_stack(request: PixelRequest) -> npt.NDArray[Any]:
    """Read the pixels of a request into one array of shape (views, bands, rows, columns).

    Views smaller than the largest are filled up with their nodata at the bottom and to the right.

    Returns:
        An array in the bands' common type or that of the options; a masked array if the options say ``masked``.

    Raises:
        WindowError: if the pixels take more memory than a read may.
        RasteretAssetsError: as :meth:`Collection.get_numpy`.
    """
    views, bands, options = request.views, request.bands, request.options
    check_memory(views)
    height = max(view.grid.height for view in views)
    width = max(view.grid.width for view in views)
    kind = options.read_type(header.sample_type for view in views for header in view.record.present_headers)
    # A record without the header of a band gets the nodata that the band has in other records.
    by_band = zip(*(view.record.headers for view in views), strict=True)
    usual = [next((header.fill for header in headers if header is not None), None) for headers in by_band]
    stack = np.empty((len(views), len(bands), height, width), dtype=kind)
    valid = np.zeros(stack.shape, dtype=bool) if options.masked else None
    planes = []
    for number, view in enumerate(views):
        for band, header in enumerate(view.record.headers):
            rows, columns = slice(view.grid.height), slice(view.grid.width)
            plane = Plane(
                view=view,
                band=band,
                pixels=stack[number, band, rows, columns],
                valid=None if valid is None else valid[number, band, rows, columns],
                fill=kind.type(np.nan) if options.scaled else usual[band] if header is None else None,
            )
            stack[number, band, view.grid.height :] = plane.empty
            stack[number, band, :, view.grid.width :] = plane.empty
            planes.append(plane)
    fill(planes, bands, request.source.open(), options)
    pixels = options.finished(stack)
    if valid is None:
        return pixels
    return masked_array(pixels, valid, np.nan if options.scaled else views[0].record.present_headers[0].fill)


def masked_array(
    pixels: npt.NDArray[Any], valid: npt.NDArray[np.bool_], fill_value: np.generic | float
) -> npt.NDArray[Any]:
    """Return a masked array of ``pixels``; ``valid`` is inverted in place to be its mask."""
    np.logical_not(valid, out=valid)
    masked: npt.NDArray[Any] = np.ma.MaskedArray(pixels, mask=valid, fill_value=fill_value)
    return masked
