"""What is read off the features of known tokens: the class of a sample, or a number or a class for each pixel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from mmmask.errors import UserError

UNLABELLED = -1  # as the data readers mark a sample without a label


class Readout(nn.Module, ABC):
    """Features `(B, N, dim)` of tokens, of which some are valid `(B, N)`, to answers.

    `of` is the modality whose tokens it looks at, all of them in their order; None: those of all modalities. Answers
    where the target is `ignored` do not count.
    """

    ignored: float
    weightless = ("wanted", "loss", "metrics", "counted")  # methods that need no weights, for `parallelize`

    def __init__(self, dim: int, of: str | None = None) -> None:
        super().__init__()
        self.dim, self.of = dim, of

    @abstractmethod
    def forward(self, features: Tensor, valid: Tensor) -> Tensor: ...

    @abstractmethod
    def wanted(self, raw: Tensor) -> Tensor:
        """What the answers should be, of what a batch holds; refuses what does not fit. It looks at all values, so
        call it on the CPU."""

    @abstractmethod
    def loss(self, answers: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of the errors of all answers that count, and how many these are."""

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """Fresh ones by name; they are updated with what `counted` returns."""

    def counted(self, answers: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Answers and targets as metrics take them."""
        return answers, wanted


class ClassHead(Readout):
    """The class of a sample: pooled features, a norm, a linear layer. Cross entropy; accuracy.

    Args:
        dim: of the features.
        classes: how many there are.
        pool: the mean of all valid tokens, or what a learned query per head attends to among them.
        label_smoothing: share of the target spread over all classes, in training.
        heads: of the attention.
        of: modality whose tokens are pooled (default: all).
    """

    ignored = UNLABELLED

    def __init__(
        self,
        dim: int,
        classes: int,
        pool: Literal["mean", "attention"] = "mean",
        label_smoothing: float = 0.0,
        heads: int = 4,
        of: str | None = None,
    ) -> None:
        super().__init__(dim, of)
        if classes < 2 or not 0 <= label_smoothing < 1 or (pool == "attention" and dim % heads):
            raise UserError(
                f"ClassHead: give 2 classes or more, a label_smoothing from 0 to below 1, and heads that divide {dim}; "
                f"they are {classes}, {label_smoothing} and {heads}."
            )
        self.classes, self.label_smoothing = classes, label_smoothing
        self.pool = AttentionPool(dim, heads) if pool == "attention" else MeanPool()
        self.norm, self.out = nn.LayerNorm(dim), nn.Linear(dim, classes)
        nn.init.trunc_normal_(self.out.weight, std=0.02)
        nn.init.zeros_(self.out.bias)

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        """Logits `(B, classes)`."""
        return self.out(self.norm(self.pool(features, valid)))

    def wanted(self, raw: Tensor) -> Tensor:
        if len(wrong := raw[(raw >= self.classes) | (raw < UNLABELLED)]):
            raise UserError(
                f"ClassHead: class {wrong[0].item()} in the data, but the head knows 0 to {self.classes - 1}; set its "
                "classes."
            )
        return raw

    def loss(self, answers: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        smoothing = self.label_smoothing if self.training else 0.0
        return cross_entropy(answers, wanted, smoothing)

    def metrics(self) -> dict[str, Metric]:
        return {"accuracy": MulticlassAccuracy(self.classes, average="micro", ignore_index=UNLABELLED)}


class MeanPool(nn.Module):
    """The mean `(B, dim)` of valid features `(B, N, dim)`; of none, zero."""

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        share = valid.to(features.dtype)
        return (features * share[..., None]).sum(1) / share.sum(1, keepdim=True).clamp(min=1)


class AttentionPool(nn.Module):
    """What a learned query in each head sees of valid features `(B, N, dim)`: `(B, dim)`."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm, self.score, self.value = nn.LayerNorm(dim), nn.Linear(dim, heads), nn.Linear(dim, dim)

    def forward(self, features: Tensor, valid: Tensor) -> Tensor:
        x = self.norm(features)
        least = torch.finfo(x.dtype).min  # not minus infinity: a sample without tokens must not become NaN
        weights = self.score(x).masked_fill(~valid[..., None], least).softmax(1) * valid[..., None]  # (B, N, heads)
        values = self.value(x).unflatten(2, (weights.shape[2], -1))
        return (weights[..., None] * values).sum(1).flatten(1)


def cross_entropy(logits: Tensor, wanted: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Its sum over what has a class, and how many that is."""
    total = F.cross_entropy(logits.float(), wanted, reduction="sum", ignore_index=UNLABELLED, label_smoothing=smoothing)
    return total, (wanted != UNLABELLED).sum().to(total.dtype)
