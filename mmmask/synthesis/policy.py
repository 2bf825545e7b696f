"""AdaNAT (Ni et al. 2024): a policy looks at the features of each image and says how its next step is to be done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.heads import PolicyHead

ACTIONS = 4  # masked, remask, temperature, guidance


class Decision(NamedTuple):
    """For each sample `(B,)` what a `Step` says for all."""

    masked: Tensor
    remask: Tensor
    temperature: Tensor
    guidance: Tensor


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
        self.steps, self.channels, self.tokens = steps, channels, tokens
        self.actor = PolicyHead(channels, ACTIONS, side, hidden, narrow, wide)
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
