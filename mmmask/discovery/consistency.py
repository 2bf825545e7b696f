"""Cross-modal instance consistency (CICO; GET, Wang et al. 2025): modalities place a sample alike among classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmmask.discovery.numerics import full_precision, mean_over, only_present, presence

TEMPERATURE = 0.4


@full_precision
def cico(features: Tensor, labels: Tensor, labelled: Tensor, present: Tensor | None = None) -> Tensor:
    """Of features `(M, V, B, D)`: each modality learns to be as near to its class means as others are to theirs.

    Means are over the labelled samples of the batch. A sum over ordered pairs of modalities, and for each a mean over
    the looks that both have; `labels` `(B,)`, `labelled` `(B,)`, `present` `(M, V, B)`.
    """
    present = presence(features, present)
    features = only_present(features, present)
    anchors, anchored = _anchors(features, labels, present & labelled)
    similarity = F.normalize(features, dim=-1).flatten(1, 2) @ F.normalize(anchors, dim=-1).mT / TEMPERATURE
    shared = (anchored[:, None] & anchored)[:, :, None]  # (M, M, 1, A): classes that both modalities have
    lowest = torch.finfo(similarity.dtype).min  # not -inf: without any class its gradient is NaN
    log_s = similarity[:, None].masked_fill(~shared, lowest).log_softmax(-1)  # (M, M, V B, A): of m, beside n
    taught = log_s.transpose(0, 1).detach().exp()  # that of n, beside m
    losses = -(taught * log_s.masked_fill(~shared, 0)).sum(-1)  # (M, M, V B)
    seen = present.flatten(1)
    means = mean_over(losses, seen[:, None] & seen & shared.any(-1), dim=-1)
    return means.masked_fill(torch.eye(len(means), dtype=torch.bool, device=means.device), 0).sum()


def _anchors(features: Tensor, labels: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Means `(M, B, D)` of the class of each sample, and which of them `(M, B)` stand for a class: its first sample's.

    One place per sample, not per class: the shape does not depend on which classes a batch has.
    """
    same = labels[:, None] == labels  # (B, B)
    weights = (same & counted[:, :, None]).float()  # (M, V, B, B)
    number = weights.sum((1, 3))  # (M, B)
    means = torch.einsum("mvab,mvbd->mad", weights, features.detach()) / number.clamp(min=1)[..., None]
    first = ~same.tril(-1).any(-1)
    return means, first & (number > 0)
