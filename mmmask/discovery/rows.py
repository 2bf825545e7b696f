"""Feature rows, read block by block: from an array, a memory map or an .npy file, never copied as a whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmmask.errors import UserError

Features = ArrayLike | str | os.PathLike[str]
BLOCK = 2**20  # numbers a block: 4 MB, which the caches of a processor hold between two uses


class Rows:
    """Rows `(N, D)` of float16, float32 or float64, given out as float32; `unit`: at length 1, for cosines.

    A path is an .npy file, memory-mapped. `block`: rows read at a time.
    """

    def __init__(self, source: Features, unit: bool = False, block: int | None = None) -> None:
        self.name = str(source) if isinstance(source, (str, os.PathLike)) else "the features"
        self.array: NDArray[Any] = _mapped(source) if isinstance(source, (str, os.PathLike)) else np.asarray(source)
        if self.array.ndim != 2 or self.array.dtype.kind != "f" or 0 in self.array.shape:
            raise UserError(
                f"{self.name}: expected rows of floating-point numbers (N, D), found shape "
                f"{self.array.shape} of {self.array.dtype}"
            )
        self.unit = unit
        self.block = block or max(1, BLOCK * _threads() // self.array.shape[1])

    def __len__(self) -> int:
        return self.array.shape[0]

    @property
    def dim(self) -> int:
        """D, the numbers in a row."""
        return self.array.shape[1]

    def blocks(self, of: NDArray[np.bool_] | None = None) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """(places `(n,)`, rows `(n, D)`) until all were given out, or those `of` a mask `(N,)`."""
        for start in range(0, len(self), self.block):
            part = slice(start, min(start + self.block, len(self)))
            places = np.arange(part.start, part.stop) if of is None else start + np.flatnonzero(of[part])
            if len(places) == part.stop - part.start:
                yield places, self._ready(self.array[part])
            elif len(places):
                yield places, self._ready(self.array[part][places - start])

    def take(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows `(n, D)` at ascending places; without a copy where that is all there is."""
        rows = self._ready(self.array if len(places) == len(self) else self.array[places])
        return np.require(rows, requirements="W")  # as torch asks; a map is read-only

    def sum_of_squares(self) -> float:
        """Of all numbers; complains about the first row that nothing can be near to."""
        total = 0.0
        for places, block in self.blocks():
            with np.errstate(over="ignore", invalid="ignore"):
                norms = np.einsum("nd,nd->n", block, block)
            if not np.isfinite(norms).all():
                row = places[np.flatnonzero(~np.isfinite(norms))[0]]
                raise UserError(
                    f"{self.name}: row {row} has a number that is NaN, infinite or too large to be squared: "
                    "leave such rows out"
                )
            total += float(norms.sum(dtype=np.float64))
        return total

    def _ready(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        rows = np.ascontiguousarray(rows, dtype=np.float32)
        return to_unit(rows) if self.unit else rows


def to_unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows `(n, D)` at length 1; one of length 0 stays."""
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def _mapped(path: str | os.PathLike[str]) -> NDArray[Any]:
    if not Path(path).is_file():
        raise UserError(f"{path}: there is no such file of features (.npy)")
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: is not a file of features that numpy wrote (.npy): {error}") from None


def _threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS") or 0) or os.cpu_count() or 1
