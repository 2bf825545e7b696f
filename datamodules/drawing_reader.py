"""A reader of drawings of a pen, seen through the same window as the images of the sample."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np

from datamodules.json_reader import Json
from datamodules.shards import BadSample
from datamodules.windows import AREA, Crop, Cropping, Window
from mmmask.errors import UserError


class Drawing(Json):
    """Strokes of points [x, y, ...] on a sheet of `size` x `size` pixels: a list of them for each sample, None where
    there is none.

    `crop`, `scale` and `flip` say what part is seen (`Cropping`): as those of the images, which are then seen alike.
    The part is as large as the sheet again, and strokes that leave it end at its border.
    """

    cropping: Cropping

    def __init__(
        self,
        size: int,
        field: str = "json",
        part: str | None = None,
        crop: Crop = "centre",
        scale: tuple[float, float] = AREA,
        flip: bool = False,
    ) -> None:
        super().__init__(field, part)
        if size < 1:
            raise UserError(f"Drawing: size ({size}) must be positive.")
        self.size, self.cropping = size, Cropping(crop, scale, flip)

    @property
    def draws(self) -> bool:
        """Random crops and flips are."""
        return self.cropping.draws

    def steady(self) -> Drawing:
        """The centre, not mirrored."""
        steady = copy(self)
        steady.cropping = self.cropping.steady()
        return steady

    def through(self, window: Window) -> Drawing:
        """This part in place of what `crop` says."""
        cropped = copy(self)
        cropped.cropping = self.cropping.through(window)
        return cropped

    def read(self, content: bytes, rng: np.random.Generator) -> list[list[list[float]]] | None:
        """Parse, crop, scale, perhaps flip."""
        drawing = super().read(content, rng)
        return None if drawing is None else self._seen(drawing, self.cropping.drawn(rng))

    def _seen(self, drawing: Any, window: Window) -> list[list[list[float]]]:
        try:
            paths = [np.array([[float(x), float(y)] for x, y, *_ in stroke]) for stroke in drawing if stroke]
        except (TypeError, ValueError) as error:
            raise BadSample(f"a drawing must be a list of strokes of points [x, y]: {error}") from error
        left, top, right, _ = self.cropping.box(window, self.size, self.size)
        scale = self.size / (right - left)
        moved = [(path + 0.5 - (left, top)) * scale - 0.5 for path in paths]
        if window.flip:
            moved = [path * (-1, 1) + (self.size - 1, 0) for path in moved]
        return [part.tolist() for path in moved for part in inside(path, -0.5, self.size - 0.5)]


def inside(path: np.ndarray, low: float, high: float) -> list[np.ndarray]:
    """The parts of a path `(N, 2)` whose coordinates lie in `low..high`, cut where it crosses the border."""
    if ((path >= low) & (path <= high)).all():
        return [path]
    if len(path) == 1:
        return []
    start, way = path[:-1], np.diff(path, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):  # ways along an axis never cross its borders
        crossings = np.stack([(low - start) / way, (high - start) / way])
    still = (start >= low) & (start <= high)  # of an axis along which nothing moves: always inside, or never
    enters = np.where(way == 0, np.where(still, -np.inf, np.inf), crossings.min(0)).max(1).clip(0, None)
    leaves = np.where(way == 0, np.where(still, np.inf, -np.inf), crossings.max(0)).min(1).clip(None, 1)
    parts: list[list[np.ndarray]] = []
    for i in np.flatnonzero(enters <= leaves):
        first, last = start[i] + enters[i] * way[i], start[i] + leaves[i] * way[i]
        if i == 0 or enters[i] > 0 or enters[i - 1] > leaves[i - 1] or leaves[i - 1] < 1:
            parts.append([first])
        parts[-1].append(last)
    return [np.array(part) for part in parts]
