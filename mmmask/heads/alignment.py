"""One vector for all that a sample has of a modality, close to those of its other modalities: contrastive alignment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.heads.readout import MeanPool
from mmmask.tokens import Memory

SHARPEST = math.log(100)  # as CLIP's


class Alignment(nn.Module):
    """Features of a memory, averaged and projected to the unit sphere, where those of one sample are to be close
    (InfoNCE, as CLIP does with two encoders; here one backbone encodes each modality by itself).

    Args:
        modalities: that are aligned with each other, two or more.
        dim: of the backbone.
        width: numbers of a vector.
        weight: of this loss beside that of the answers.
        temperature: that training begins with; it is learned.
        smoothing: share of the right answer that is spread over all: samples may be alike.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        dim: int,
        width: int = 128,
        weight: float = 0.3,
        temperature: float = 0.1,
        smoothing: float = 0.1,
    ) -> None:
        super().__init__()
        if len(modalities) < 2 or len(set(modalities)) < len(modalities):
            raise UserError(f"Alignment: two or more different modalities are aligned, got {', '.join(modalities)}.")
        if not temperature >= math.exp(-SHARPEST) or not 0 <= smoothing < 1 or weight < 0:
            raise UserError(
                "Alignment: temperature is at least 0.01, smoothing from 0 to below 1, weight 0 or more; they are "
                f"{temperature}, {smoothing} and {weight}."
            )
        self.names, self.weight, self.smoothing = list(modalities), weight, smoothing
        self.pool = MeanPool()
        self.project = nn.ModuleDict(
            {name: nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width)) for name in modalities}
        )
        self.log_scale = nn.Parameter(torch.tensor([-math.log(temperature)]))  # FSDP2 wants a dimension

    def forward(self, name: str, memory: Memory) -> Tensor:
        """Vectors `(B, width)` of length 1 for what is remembered of one modality."""
        mean = self.pool(memory.features, memory.tokens.is_valid())
        return F.normalize(self.project[name](mean).float(), dim=-1)

    def loss(self, vectors: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> Tensor:
        """InfoNCE in both directions, over samples that have both, averaged over pairs of modalities."""
        found = [self._pair(vectors[a], vectors[b], there[a] & there[b]) for a, b in combinations(vectors, 2)]
        return torch.stack(found).mean()

    def _pair(self, a: Tensor, b: Tensor, both: Tensor) -> Tensor:
        beyond = (self.log_scale - SHARPEST).clamp(min=0).detach()  # detached: gradients lead back from there
        scores, count = (self.log_scale - beyond).exp() * a @ b.T, both.sum().clamp(min=1)
        total = scores.new_zeros(())
        for direction in (scores, scores.T):  # a sample that lacks one is no candidate, nor asked
            chances = direction.masked_fill(~both, -torch.inf).log_softmax(1).masked_fill(~both, 0.0)
            each = (1 - self.smoothing) * chances.diagonal() + self.smoothing * chances.sum(1) / count
            total = total - torch.where(both, each, 0.0).sum() / count
        return total / 2
