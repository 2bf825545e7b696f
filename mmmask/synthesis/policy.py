"""AdaNAT (Ni et al. 2024): a policy looks at the features of each image and says how its next step is to be done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError

ACTIONS = 4  # masked, remask, temperature, guidance
FREQUENCIES = 256


class Decision(NamedTuple):
    """For each sample `(B,)` what a `Step` says for all."""

    masked: Tensor
    remask: Tensor
    temperature: Tensor
    guidance: Tensor


class Look(nn.Module):
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
        self.side, shrunk = side, -(-side // 2)
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
        if features.shape[1] != self.side**2:
            raise UserError(f"a policy for {self.side}x{self.side} tokens cannot look at {features.shape[1]} of them.")
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


class Policy(nn.Module):
    """Says for each image how its next step is to be done: the mean of a normal distribution over four numbers.

    Args:
        channels: width of the model's features.
        tokens: of an image.
        steps: of decoding.
        heuristic: a policy that knows nothing yet follows the cosine with growing guidance, instead of zeros.
        hidden, narrow, wide: sizes of the network.
    """

    def __init__(
        self,
        channels: int,
        tokens: int = 256,
        steps: int = 8,
        heuristic: bool = False,
        hidden: int = 512,
        narrow: int = 128,
        wide: Sequence[int] = (1024, 512),
    ) -> None:
        super().__init__()
        side = math.isqrt(tokens)
        if side * side != tokens or steps < 1:
            raise UserError(f"Policy: {tokens} tokens in {steps} steps; it needs a square grid, and 1 step or more.")
        self.steps = steps
        self.actor = Look(channels, ACTIONS, side, hidden, narrow, wide)
        self.register_buffer("bias", rules_of_thumb(steps) if heuristic else torch.zeros(steps, ACTIONS))

    def mean(self, features: Tensor, step: Tensor) -> Tensor:
        """Actions `(B, 4)` before they are made positive."""
        return self.actor(features, step)

    def decide(self, actions: Tensor, step: Tensor) -> Decision:
        """What actions `(B, 4)` mean: a share, and three numbers of 0 or more."""
        masked, *others = (actions + self.get_buffer("bias")[step]).unbind(1)
        return Decision(masked.sigmoid(), *(F.softplus(other) for other in others))


def rules_of_thumb(steps: int) -> Tensor:
    """Actions `(S, 4)` that mean the cosine, noise that falls, plain draws, guidance that grows."""
    done = (torch.arange(steps, dtype=torch.float64) + 1) / steps
    masked = torch.cos(math.pi / 2 * (done - 1e-3 / steps))
    positive = torch.stack([1 - done + 1e-3 / steps, torch.ones_like(done), done - (1 - 1e-3) / steps], 1)
    return torch.cat([masked.logit()[:, None], positive + torch.log(-torch.expm1(-positive))], 1).float()
