"""Fixed places: sines and cosines of where a token stands, in a line or in a grid (as 4M's, in float32)."""

from __future__ import annotations

import torch
from torch import Tensor

ACROSS = 8  # units of a picture, the same in all models: a token keeps its place when others come


def in_a_line(length: int, dim: int) -> Tensor:
    """`(length, dim)`: sines, then cosines."""
    return _waves(torch.arange(length), dim)


def in_a_grid(height: int, width: int, dim: int) -> Tensor:
    """`(height * width, dim)`, row by row: half tells the row, half the column."""
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.cat([_waves(part.flatten(), dim // 2) for part in (row, column)], 1)


def in_a_picture(side: int, dim: int) -> Tensor:
    """`(side * side, dim)`: where the middles of tokens lie in a picture of ACROSS units, so that grids of different
    sides agree. Waves are no longer than the picture: by 4M's, places in small grids are nearly alike."""
    middle = _middles(side)
    row, column = torch.meshgrid(middle, middle, indexing="ij")
    return torch.cat([_waves(part.flatten(), dim // 2, ACROSS) for part in (row, column)], 1)


def along_axes(bins: int, dim: int = 64) -> tuple[Tensor, Tensor]:
    """Where the bins of a picture's two coordinates x and y lie, each `(bins, dim)`: as its first row, and column."""
    waves = _waves(_middles(bins), dim // 2, ACROSS)
    border = waves[:1].expand_as(waves)
    return torch.cat([border, waves], 1), torch.cat([waves, border], 1)


def _middles(side: int) -> Tensor:
    """Of tokens, side by side in ACROSS units."""
    return (torch.arange(side) + 0.5) * (ACROSS / side) - 0.5


def _waves(place: Tensor, dim: int, longest: float = 10000) -> Tensor:
    angles = place[:, None] * (1.0 / longest ** (torch.arange(dim // 2) / (dim // 2)))
    return torch.cat([angles.sin(), angles.cos()], 1)
