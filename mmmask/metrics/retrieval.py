"""How often what belongs together is found among others."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class Recall(Metric):
    """Share of queries whose own candidate is among the `top` that score highest; a tie counts against it."""

    higher_is_better = True
    full_state_update = False
    found: Tensor
    asked: Tensor

    def __init__(self, top: int = 1) -> None:
        super().__init__()
        self.top = top
        self.add_state("found", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("asked", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, scores: Tensor, own: Tensor | None = None) -> None:
        """Of scores `(N, C)`; `own` `(N,)` are the candidates that belong to the queries (default: the n-th)."""
        own = torch.arange(len(scores), device=scores.device) if own is None else own
        right = scores.gather(1, own[:, None])
        before = (scores >= right).sum(1) - 1
        self.found += (before < self.top).sum()
        self.asked += len(scores)

    def compute(self) -> Tensor:
        return self.found / self.asked.clamp(min=1)
