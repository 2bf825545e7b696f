"""Windows: which part of an image is seen, said so that it fits all modalities of a sample."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from mmmask.errors import UserError

AREA = (0.3, 1.0)  # of the largest square, that a random window covers
LARGEST = 4.0  # area that it may have
Crop = Literal["random", "centre", "none"]


@dataclass(frozen=True)
class Window:
    """A square part of an image of any size: its side as a share of the shorter one, and where it lies between the
    left (0) and the right (1), the top (0) and the bottom (1)."""

    side: float = 1.0
    x: float = 0.5
    y: float = 0.5
    flip: bool = False

    @staticmethod
    def drawn(rng: np.random.Generator, area: tuple[float, float]) -> Window:
        """A random one that covers such a share of the largest square, mirrored or not."""
        return Window(math.sqrt(rng.uniform(*area)), rng.random(), rng.random(), rng.random() < 0.5)

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right, bottom in pixels."""
        side = max(1, round(self.side * min(width, height)))
        left, top = _nearest(self.x * (width - side)), _nearest(self.y * (height - side))
        return left, top, left + side, top + side


def _nearest(place: float) -> int:
    """The pixel; of two as near, the first."""
    return math.ceil(place - 0.5)


@dataclass(frozen=True)
class Cropping:
    """How the window of a sample is found; what is cropped alike is seen through the same one.

    `crop` is `random` (a part of `scale` of the area, any place; above 1 there is white around), `centre` (the largest
    square) or `none` (all, which is square). `flip` mirrors half of the samples. `pad` makes what is not square so
    first, with white beside or above and below. A `window` that is given is the one.
    """

    crop: Crop = "centre"
    scale: tuple[float, float] = AREA
    flip: bool = False
    pad: bool = False
    window: Window | None = None

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= LARGEST:
            raise UserError(f"scale of crops: give 0 < scale[0] <= scale[1] <= {LARGEST}, not {self.scale}.")

    @property
    def draws(self) -> bool:
        """Whether windows differ."""
        return self.flip or self.crop == "random"

    def steady(self) -> Cropping:
        """The centre in place of random parts, not mirrored."""
        return replace(self, crop="centre" if self.crop == "random" else self.crop, flip=False)

    def through(self, window: Window) -> Cropping:
        """This window in place of what `crop` says."""
        return replace(self.steady(), window=window)

    def drawn(self, rng: np.random.Generator) -> Window:
        """The window of a sample."""
        if self.window or not self.draws:
            return self.window or Window()
        drawn = Window.drawn(rng, self.scale)
        flip = self.flip and drawn.flip
        return replace(drawn, flip=flip) if self.crop == "random" else Window(flip=flip)

    def box(self, window: Window, width: int, height: int) -> tuple[int, int, int, int]:
        """Where the window lies in an image, whose place is the middle of the square that it is padded to."""
        if not self.pad:
            return window.box(width, height)
        square = max(width, height)
        left, top, right, bottom = window.box(square, square)
        beside, above = (square - width) // 2, (square - height) // 2
        return left - beside, top - above, right - beside, bottom - above


@dataclass(frozen=True)
class Windows:
    """`count` windows for each sample: the first is the centre, the others are random by seed and key alone.

    `flip` mirrors half of the random ones.
    """

    count: int
    seed: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.count < 1 or self.seed < 0:
            raise UserError(f"crops ({self.count}) must be 1 or more, and seed ({self.seed}) 0 or more.")

    def of(self, key: str, copy: int) -> Window:
        """The window of this copy of a sample."""
        if copy == 0:
            return Window()
        rng = np.random.default_rng([self.seed, copy, zlib.crc32(key.encode())])
        drawn = Window.drawn(rng, AREA)
        return Window(round(drawn.side, 4), round(drawn.x, 4), round(drawn.y, 4), self.flip and drawn.flip)
