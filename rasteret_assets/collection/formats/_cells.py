"""Hold arrays of pixels, each of its own shape, in a pandas column that Arrow and Parquet can store."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
from pandas.api.extensions import ExtensionArray, ExtensionDtype, register_extension_dtype


@register_extension_dtype
class PixelDtype(ExtensionDtype):  # type: ignore[misc]  # Any to mypy, which has no pandas
    """Type of a column of arrays."""

    name = "pixels"
    type = np.ndarray
    kind = "O"
    na_value = None

    @classmethod
    def construct_array_type(cls) -> builtins.type[PixelColumn]:
        """Return the class of columns of this type."""
        return PixelColumn


class PixelColumn(ExtensionArray):  # type: ignore[misc]
    """Arrays of two dimensions as the cells of a column.

    In Arrow and Parquet a cell is a list of rows, each a list of numbers; masked pixels are null in it.

    Args:
        cells: the arrays; None for a missing cell.
    """

    def __init__(self, cells: Iterable[npt.NDArray[Any] | None]) -> None:
        self._cells = list(cells)

    @classmethod
    def _from_sequence(  # pandas names the arguments
        cls,
        scalars: Iterable[npt.NDArray[Any] | None],
        *,
        dtype: PixelDtype | None = None,  # noqa: ARG003
        copy: bool = False,  # noqa: ARG003
    ) -> PixelColumn:
        return cls(scalars)

    @classmethod
    def _concat_same_type(cls, to_concat: Sequence[PixelColumn]) -> PixelColumn:
        return cls(cell for column in to_concat for cell in column)

    @property
    def dtype(self) -> PixelDtype:
        """Type of the column."""
        return PixelDtype()

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(0 if cell is None else int(cell.nbytes) for cell in self._cells)

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, item: object) -> PixelColumn | npt.NDArray[Any] | None:
        item = pd.api.indexers.check_array_indexer(self, item)
        if isinstance(item, int | np.integer):
            return self._cells[item]
        if isinstance(item, slice):
            return type(self)(self._cells[item])
        item = np.asarray(item)
        chosen = np.flatnonzero(item) if item.dtype == bool else item
        return type(self)(self._cells[place] for place in chosen)

    def __setitem__(self, key: int | slice | npt.NDArray[Any], value: npt.NDArray[Any] | None) -> None:
        for place in np.atleast_1d(np.arange(len(self))[key]):
            self._cells[place] = value

    def __eq__(self, other: object) -> npt.NDArray[np.bool_]:  # type: ignore[override]  # cell by cell, as pandas has it
        others = other._cells if isinstance(other, PixelColumn) else [other] * len(self)
        return np.array([a is b for a, b in zip(self._cells, others, strict=True)], dtype=bool)

    __hash__ = None  # type: ignore[assignment]

    def isna(self) -> npt.NDArray[np.bool_]:
        """Return which cells are missing."""
        return np.array([cell is None for cell in self._cells], dtype=bool)

    def take(
        self, indices: Sequence[int], *, allow_fill: bool = False, fill_value: npt.NDArray[Any] | None = None
    ) -> PixelColumn:
        """Return cells by position; with ``allow_fill``, -1 is a missing cell."""
        return type(self)(
            fill_value if allow_fill and place == -1 else self._cells[place] for place in np.asarray(indices)
        )

    def copy(self) -> PixelColumn:
        """Return a column of the same arrays."""
        return type(self)(self._cells)

    def _formatter(self, boxed: bool = False) -> Callable[[npt.NDArray[Any] | None], str]:  # noqa: ARG002  (pandas calls it so)
        return lambda cell: "None" if cell is None else f"{cell.dtype}[{' x '.join(map(str, cell.shape))}]"

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:  # noqa: A002  (Arrow's name)
        present = [cell for cell in self._cells if cell is not None]
        kind = pa.from_numpy_dtype(np.result_type(*{cell.dtype for cell in present})) if present else pa.float64()
        shapes = [(0, 0) if cell is None else cell.shape for cell in self._cells]
        values = [
            pa.array(np.ma.getdata(cell).ravel(), kind, mask=np.ma.getmaskarray(cell).ravel()) for cell in present
        ]
        flat = pa.concat_arrays([pa.array([], kind), *values])
        widths = np.repeat([width for _, width in shapes], [height for height, _ in shapes])
        rows = pa.ListArray.from_arrays(pa.array(np.cumsum([0, *widths]), pa.int32()), flat)
        ends = pa.array(np.cumsum([0, *(height for height, _ in shapes)]), pa.int32())
        made = pa.ListArray.from_arrays(ends, rows, mask=pa.array(self.isna()))
        return made if type is None else made.cast(type)
