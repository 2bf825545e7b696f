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
from mmmask.synthesis.schedules import Schedule

ACTIONS = 4  # masked, remask, temperature, guidance
LEAST = 1e-3  # of what a schedule says, where a policy can come close only


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
        smoothing: share of the step before in what is done next (AdaGen, Ni et al. 2026): long decodings do not jump.
        hidden, narrow, wide: sizes of the network.
    """

    def __init__(
        self,
        channels: int,
        tokens: int = 256,
        steps: int = 8,
        heuristic: bool = False,
        smoothing: float = 0.0,
        hidden: int = 512,
        narrow: int = 128,
        wide: Sequence[int] = (1024, 512),
    ) -> None:
        super().__init__()
        side = math.isqrt(tokens)
        if side * side != tokens or steps < 1:
            raise UserError(f"Policy: {tokens} tokens in {steps} steps; it needs a square grid, and 1 step or more.")
        if not 0 <= smoothing < 1:
            raise UserError(f"Policy: smoothing is a share from 0 to below 1; given: {smoothing}.")
        self.steps, self.channels, self.tokens, self.smoothing = steps, channels, tokens, smoothing
        self.actor = PolicyHead(channels, ACTIONS, side, hidden, narrow, wide)
        aims = rules_of_thumb(steps) if heuristic else torch.zeros(steps, ACTIONS)
        self.register_buffer("bias", self._before_smoothing(aims))

    def follow(self, schedule: Schedule) -> None:
        """While the policy knows nothing yet, let it do what this schedule says."""
        if len(schedule) != self.steps:
            raise UserError(f"a policy for {self.steps} steps cannot begin with a schedule of {len(schedule)}.")
        rows = [[step.masked, step.remask, step.temperature, step.guidance] for step in schedule.steps]
        masked, *others = torch.tensor(rows, dtype=torch.float64).clamp(min=LEAST).unbind(1)
        aims = [masked.clamp(max=1 - LEAST).logit(), *map(_before_softplus, others)]
        self.get_buffer("bias").copy_(self._before_smoothing(torch.stack(aims, 1)))

    def _before_smoothing(self, aims: Tensor) -> Tensor:
        """What, smoothed, are these aims `(S, 4)`."""
        before = torch.cat([aims[:1], aims[:-1]])
        return (aims - self.smoothing * before) / (1 - self.smoothing)

    def mean(self, features: Tensor, step: Tensor) -> Tensor:
        """Actions `(B, 4)`: how to deviate from what is done without knowledge."""
        return self.actor(features, step)

    def aim(self, actions: Tensor, step: Tensor, before: Tensor | None = None) -> Tensor:
        """What actions `(B, 4)` aim at, smoothed if the aim of the step `before` is given."""
        aim = self.get_buffer("bias")[step] + actions
        return aim if before is None else self.smoothing * before + (1 - self.smoothing) * aim

    def decide(self, aim: Tensor) -> Decision:
        """What aims `(B, 4)` mean: a share, and three numbers of 0 or more."""
        masked, *others = aim.unbind(1)
        return Decision(masked.sigmoid(), *map(F.softplus, others))


def rules_of_thumb(steps: int) -> Tensor:
    """Actions `(S, 4)` that mean the cosine, noise that falls, plain draws, guidance that grows."""
    done = (torch.arange(steps, dtype=torch.float64) + 1) / steps
    masked = torch.cos(math.pi / 2 * (done - 1e-3 / steps))
    positive = torch.stack([1 - done + 1e-3 / steps, torch.ones_like(done), done - (1 - 1e-3) / steps], 1)
    return torch.cat([masked.logit()[:, None], _before_softplus(positive)], 1).float()


def _before_softplus(x: Tensor) -> Tensor:
    return x + torch.log(-torch.expm1(-x))
