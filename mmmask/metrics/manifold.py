"""Precision and recall of generated images (Kynkäänniemi et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from mmmask.errors import UserError

MOST = 10_000


def precision_recall(real: Tensor, generated: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Shares of generated features that lie among the real ones, and the reverse; features are `(N, D)`.

    A point lies among others if it is nearer to one of them than that one's k-th nearest neighbour. Of more than
    10,000 of either a sample is compared, always the same.
    """
    if min(len(real), len(generated)) <= neighbours:
        raise UserError(f"precision and recall need more than {neighbours} real and generated images.")
    real, generated = _sample(real), _sample(generated)
    return _among(generated, real, neighbours), _among(real, generated, neighbours)


def _among(points: Tensor, others: Tensor, neighbours: int) -> float:
    radii = torch.cat([_distances(part, others).kthvalue(neighbours + 1, 1).values for part in others.split(1024)])
    inside = [(_distances(part, others) <= radii).any(1) for part in points.split(1024)]
    return torch.cat(inside).double().mean().item()


def _sample(features: Tensor) -> Tensor:
    if len(features) <= MOST:
        return features
    return features[torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:MOST]]


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a.double(), b.double())
