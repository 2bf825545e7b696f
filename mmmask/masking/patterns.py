"""Patterns: which tokens are taken when so and so many of them are to be asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from mmmask.errors import UserError


class Pattern(ABC):
    """A rule by which tokens are taken."""

    @abstractmethod
    def __call__(self, batch: int, length: int, generator: torch.Generator | None = None) -> Tensor:
        """A number for each token `(B, L)`: those with the lowest are asked."""


class RandomPattern(Pattern):
    """Any tokens, all subsets equally often."""

    def __call__(self, batch: int, length: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.rand(batch, length, generator=generator)


@dataclass(frozen=True)
class BlockPattern(Pattern):
    """One rectangle of a square grid, at a random place and up to `stretch` times as long as wide, or the reverse."""

    stretch: float = 3.0

    def __post_init__(self) -> None:
        if self.stretch < 1:
            raise UserError(f"BlockPattern: stretch must be 1 or more; it is {self.stretch}.")

    def __call__(self, batch: int, length: int, generator: torch.Generator | None = None) -> Tensor:
        side = round(length**0.5)
        if side * side != length:
            raise UserError(f"BlockPattern: {length} tokens make no square grid; use RandomPattern.")
        centre = torch.rand(batch, 2, generator=generator) * side
        stretch = self.stretch ** (torch.rand(batch, 1, generator=generator) - 0.5)
        at = torch.cartesian_prod(torch.arange(side), torch.arange(side)) + 0.5  # (L, 2)
        away = (at - centre[:, None]).abs()  # (B, L, 2)
        distance = torch.maximum(away[..., 0] * stretch, away[..., 1] / stretch)
        return distance + 1e-3 * torch.rand(batch, length, generator=generator)
