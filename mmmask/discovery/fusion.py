"""One prediction from several modalities, whichever of them a sample has.

Scores `(M, ..., K)` are logits or probabilities of K classes in M modalities; `present` is `(M, ...)`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.discovery.numerics import only_present, presence
from mmmask.discovery.output_space import STUDENT_TEMPERATURE
from mmmask.errors import UserError

LEAST = 1e-6  # what a modality counts at least: a sample may have no other


def weighted_mean(scores: Tensor, present: Tensor | None = None, weights: Tensor | None = None) -> Tensor:
    """`(M, ..., K)` to `(..., K)`; `weights` `(M, ...)` above 0 (default: equal). Where nothing is present it is 0."""
    there = presence(scores, present)
    share = there.to(scores.dtype) if weights is None else weights.to(scores.dtype).expand(there.shape) * there
    share = share / share.sum(0).clamp(min=torch.finfo(scores.dtype).tiny)
    return (share[..., None] * only_present(scores, there)).sum(0)


class Fusion(nn.Module, ABC):
    """Logits `(M, ..., K)` of the present modalities to fused ones `(..., K)`."""

    @abstractmethod
    def weights(self, logits: Tensor) -> Tensor:
        """How much each modality counts, `(M, ...)`."""

    def counted(self, logits: Tensor, present: Tensor | None = None) -> Tensor:
        """The same, above 0, whatever stands where nothing is present."""
        return self.weights(only_present(logits, present)).clamp(min=LEAST)

    def forward(self, logits: Tensor, present: Tensor | None = None) -> Tensor:
        return weighted_mean(logits, present, self.counted(logits, present))


class MeanFusion(Fusion):
    """All modalities count the same."""

    def weights(self, logits: Tensor) -> Tensor:
        return torch.ones_like(logits[..., 0])


class ConfidenceFusion(Fusion):
    """The surer a modality is of a sample, the more it counts: 1 - H(p) / log K."""

    def weights(self, logits: Tensor) -> Tensor:
        log_p = (logits.float() / STUDENT_TEMPERATURE).log_softmax(-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        return 1 - entropy / math.log(logits.shape[-1])


class LearnedFusion(Fusion):
    """One weight per modality: fitted on labelled data, best on such that the backbone was not trained with, or found
    by `trusted`, as CategoryDiscovery does."""

    log_weights: Tensor  # a buffer: no training but `fit` changes it

    def __init__(self, modalities: int) -> None:
        super().__init__()
        if modalities < 2:
            raise UserError(f"LearnedFusion: there is nothing to fuse in {modalities} modality.")
        self.register_buffer("log_weights", torch.zeros(modalities))

    def weights(self, logits: Tensor) -> Tensor:
        weights = self.log_weights.softmax(0)
        return weights.view(-1, *[1] * (logits.ndim - 2)).expand(logits.shape[:-1])

    @torch.no_grad()
    def set(self, weights: Sequence[float]) -> None:
        """What modalities count, in their order."""
        self.log_weights.copy_(torch.tensor(weights).clamp(min=LEAST).log())

    def fit(self, logits: Tensor, labels: Tensor, present: Tensor | None = None) -> None:
        """The weights with which logits `(M, N, K)` of labelled samples predict their labels `(N,)` best."""
        if not len(labels):
            raise UserError("LearnedFusion: it is fitted on labelled samples, and there is none; use MeanFusion.")
        if len(logits) != len(self.log_weights):
            raise UserError(f"LearnedFusion: is for {len(self.log_weights)} modalities; logits are of {len(logits)}.")
        logits = logits.detach().float()
        self.log_weights = self.log_weights.clone().requires_grad_()
        optimizer = torch.optim.LBFGS([self.log_weights], max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            error = F.cross_entropy(self(logits, present) / STUDENT_TEMPERATURE, labels)
            error.backward()
            return error

        optimizer.step(loss)
        self.log_weights = self.log_weights.detach()
