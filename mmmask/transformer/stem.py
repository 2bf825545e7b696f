"""Convolutions that look at pixels before attention does (Xiao et al. 2021: early convolutions)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.modalities import Modality
from mmmask.tokens import rows

GROUPS = 8  # of channels that are normalised together


class ConvStem(nn.Module):
    """Features of patches out of a picture of the known ones: edges and textures are the same everywhere, which
    convolutions need not learn anew for each place. Patches that are not known are blank."""

    def __init__(self, modality: Modality, dim: int) -> None:
        super().__init__()
        patch, side = modality.patch or 0, math.isqrt(modality.length)
        halvings = patch.bit_length() - 1
        if patch < 2 or 2**halvings != patch or dim % (GROUPS << (halvings - 1)):
            raise UserError(
                f"ConvStem: {modality.name} needs patches of 2, 4, 8, ... pixels, and a dim ({dim}) that divides by "
                f"{GROUPS << max(0, halvings - 1)} for them; take stem: linear, or other sizes."
            )
        assert modality.channels is not None
        self.patch, self.side, self.channels = patch, side, modality.channels // patch**2
        widths = [self.channels, *(dim >> left for left in range(halvings - 1, -1, -1))]
        self.layers = nn.Sequential(*(layer for pair in pairwise(widths) for layer in _halve(*pair)))
        self.out = nn.Conv2d(dim, dim, 1)

    def forward(self, values: Tensor, position: Tensor, meant: Tensor) -> Tensor:
        """Of patches `(B, N, patch * patch * channels)` at these positions `(B, N)`, where meant: `(B, N, dim)`."""
        number, patch, side = self.side**2, self.patch, self.side
        place = torch.where(meant, position, number)[..., None].expand_as(values)
        canvas = values.new_zeros(len(values), number + 1, values.shape[2]).scatter(1, place, values)[:, :number]
        picture = canvas.view(-1, side, side, patch, patch, self.channels).permute(0, 5, 1, 3, 2, 4)
        picture = picture.reshape(-1, self.channels, side * patch, side * patch)
        features = self.out(self.layers(picture)).flatten(2).transpose(1, 2)  # (B, number, dim)
        return rows(features, torch.where(meant, position, 0))


def _halve(channels: int, width: int) -> list[nn.Module]:
    """Half the height and width, by two convolutions."""
    layers: list[nn.Module] = []
    for stride, inputs in ((2, channels), (1, width)):
        layers += [nn.Conv2d(inputs, width, 3, stride, 1), nn.GroupNorm(GROUPS, width), nn.GELU()]
    return layers
