"""Precision and recall of generated images (Kynkäänniemi et al. 2019)."""

from __future__ import annotations

import torch
from torch import Tensor


def precision_recall(real: Tensor, generated: Tensor, neighbours: int = 3) -> tuple[float, float]:
    """Shares of generated features that lie among the real ones, and the reverse; features are `(N, D)`.

    A point lies among others if it is nearer to one of them than that one's k-th nearest neighbour.
    """
    return _among(generated, real, neighbours), _among(real, generated, neighbours)


def _among(points: Tensor, others: Tensor, neighbours: int) -> float:
    radii = torch.cat([_distances(part, others).kthvalue(neighbours + 1, 1).values for part in others.split(1024)])
    inside = [(_distances(part, others) <= radii).any(1) for part in points.split(1024)]
    return torch.cat(inside).double().mean().item()


def _distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")
