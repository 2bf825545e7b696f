"""Proximal policy optimisation as AdaNAT does it: full batches, one normal distribution of fixed spread."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmmask.tokenizers.ranks import sum_over_ranks


class Rollout(NamedTuple):
    """What was seen and done, N times over all images and steps, and what came of it."""

    features: Tensor  # (N, L, C), on the host: it is all that is large
    steps: Tensor  # (N,)
    actions: Tensor  # (N, 4)
    chances: Tensor  # (N,): log-probability of the actions when they were done
    values: Tensor  # (N,): what the critic then thought would come of it
    returns: Tensor  # (N,): what came of it, normalised

    def parts(self, size: int, device: torch.device) -> Iterator[Rollout]:
        """So many at a time, on the device, features in float32."""
        for some in zip(*(part.split(size) for part in self), strict=True):
            yield Rollout(some[0].to(device).float(), *(part.to(device) for part in some[1:]))


class Terms(NamedTuple):
    """Of the loss, each a mean over N."""

    policy: Tensor
    critic: Tensor


Network = Callable[[Tensor, Tensor], Tensor]  # features, steps -> actions (N, 4), or values (N, 1)


def chances(actions: Tensor, mean: Tensor, spread: float) -> Tensor:
    """Log-probabilities `(N,)` of actions `(N, A)` under a normal distribution around the mean."""
    deviation = (actions - mean) / spread
    return -(0.5 * deviation.square() + math.log(spread) + 0.5 * math.log(2 * math.pi)).sum(1)


def normalised(rewards: Tensor) -> Tensor:
    """Rewards by their mean and spread over all ranks."""
    rewards = rewards.double()
    n, total = sum_over_ranks(torch.stack([torch.ones_like(rewards), rewards]).flatten(1).sum(1))
    mean = total / n
    variance = sum_over_ranks((rewards - mean).square().sum()) / (n - 1)
    return ((rewards - mean) / (variance.sqrt() + 1e-7)).float()


def terms(actor: Network, critic: Network, part: Rollout, spread: float, clip: float = 0.2) -> Terms:
    """The clipped gain of the actions over what the critic expected, negative; and the critic's error."""
    ratio = (chances(part.actions, actor(part.features, part.steps), spread) - part.chances).exp()
    advantage = part.returns - part.values
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    return Terms(-gain.mean(), F.mse_loss(critic(part.features, part.steps)[:, 0], part.returns))


def accumulate(
    actor: Network, critic: Network, rollout: Rollout, spread: float, size: int, device: torch.device, clip: float = 0.2
) -> Terms:
    """Gradients of the loss over the whole rollout, with so many at a time on the device; the terms, detached."""
    total = [torch.zeros((), device=device) for _ in Terms._fields]
    for part in rollout.parts(size, device):
        share = len(part.steps) / len(rollout.steps)
        found = terms(actor, critic, part, spread, clip)
        ((found.policy + 0.5 * found.critic) * share).backward()
        total = [a + share * b.detach() for a, b in zip(total, found, strict=True)]
    return Terms(*total)
