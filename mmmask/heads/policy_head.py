"""What to do next: features of all tokens to a few numbers (AdaNAT, Ni et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError

FREQUENCIES = 256


class PolicyHead(nn.Module):
    """The published network: features of all tokens `(B, L, C)` at step `(B,)` to numbers `(B, outputs)`."""

    def __init__(
        self,
        channels: int,
        outputs: int,
        side: int,
        hidden: int = 512,
        narrow: int = 128,
        wide: Sequence[int] = (1024, 512),
    ) -> None:
        super().__init__()
        self.channels, self.side, shrunk = channels, side, -(-side // 2)
        self.embed = nn.Linear(channels, hidden) if channels != hidden else nn.Identity()
        self.time = nn.Sequential(nn.Linear(FREQUENCIES, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.norms = nn.ModuleList(AdaptiveNorm(width, hidden) for width in (hidden, *wide))
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride=2, padding=1, groups=hidden)
        self.pointwise = nn.Conv2d(hidden, narrow, 1)
        sizes = [narrow * shrunk**2, *wide, outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for name in ("time.0", "time.2"):
            nn.init.normal_(self.get_parameter(f"{name}.weight"), std=0.02)
        for name in (*(f"norms.{i}.modulation" for i in range(len(self.norms))), f"layers.{len(wide)}"):
            nn.init.zeros_(self.get_parameter(f"{name}.weight"))

    def forward(self, features: Tensor, step: Tensor) -> Tensor:
        tokens, width = features.shape[1:]
        if tokens != self.side**2:
            raise UserError(f"a policy for {self.side}x{self.side} tokens cannot look at {tokens} of them.")
        if width != self.channels:
            raise UserError(f"a policy for features of {self.channels} numbers cannot look at such of {width}.")
        time = self.time(waves(step))
        x = self.norms[0](self.embed(features), time).mT.unflatten(2, (self.side, self.side))
        x = F.gelu(self.pointwise(F.gelu(self.depthwise(x)))).flatten(1)
        for layer, norm in zip(self.layers, self.norms[1:], strict=False):
            x = F.gelu(norm(layer(x), time))
        return self.layers[-1](x)


class AdaptiveNorm(nn.Module):
    """Layer norm `(B, ..., width)` with shift and scale by the time `(B, hidden)`."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(hidden, 2 * width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift, scale = self.modulation(F.silu(time)).view(len(x), *[1] * (x.ndim - 2), -1).chunk(2, -1)
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def waves(step: Tensor) -> Tensor:
    """Cosines, then sines `(B, 256)` of a step `(B,)`."""
    half = FREQUENCIES // 2
    angles = step[:, None] * torch.exp(-math.log(1e4) * torch.arange(half, device=step.device) / half)
    return torch.cat([angles.cos(), angles.sin()], 1)
