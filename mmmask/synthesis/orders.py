"""Which of the tokens drawn in a step are kept: those with the highest scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache

import torch
from scipy.stats import qmc
from torch import Tensor

from mmmask.errors import UserError
from mmmask.synthesis.noise import Noise

Weight = float | Tensor  # one for all, or (B, 1)


class Order(ABC):
    """A rule by which drawn tokens are kept or masked again."""

    @abstractmethod
    def __call__(self, chances: Tensor, places: Tensor, length: int, step: int, remask: Weight, noise: Noise) -> Tensor:
        """Scores `(B, n)` of words drawn with these log-probabilities `(B, n)` at these places of `length`."""


class Confident(Order):
    """The likeliest first, blurred by noise of the weight `remask` (MaskGIT, AutoNAT, ENAT)."""

    def __call__(self, chances: Tensor, places: Tensor, length: int, step: int, remask: Weight, noise: Noise) -> Tensor:
        if not isinstance(remask, Tensor) and remask == 0:
            return chances
        return chances + remask * noise.gumbel(step, places)


class Spread(Order):
    """Along the Halton sequence, which spreads evenly over the picture (Besnier et al. 2025); looks at no word."""

    def __call__(self, chances: Tensor, places: Tensor, length: int, step: int, remask: Weight, noise: Noise) -> Tensor:
        return -halton(length, places.device)[places].to(chances.dtype)


class Shuffled(Order):
    """In random order."""

    def __call__(self, chances: Tensor, places: Tensor, length: int, step: int, remask: Weight, noise: Noise) -> Tensor:
        return noise.gumbel(0, places)  # the same order at each step


@lru_cache
def halton(length: int, device: torch.device | str = "cpu") -> Tensor:
    """The rank `(length,)` of each cell of a square grid: when the 2-d Halton sequence first falls into it."""
    side = round(length**0.5)
    if side * side != length:
        raise UserError(f"the Halton order needs a square grid; {length} tokens make none.")
    points = qmc.Halton(2, scramble=False)
    first: dict[int, int] = {}
    while len(first) < length:
        for x, y in (points.random(length) * side).astype(int):
            first.setdefault(int(y) * side + int(x), len(first))
    return torch.tensor([first[cell] for cell in range(length)], device=device)
