"""Windows: which part of an image is seen, said so that it fits all modalities of a sample."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass

import numpy as np

from mmmask.errors import UserError

AREA = (0.3, 1.0)  # of the largest square, that a random window covers


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
