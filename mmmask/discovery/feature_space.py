"""Contrast in the space of features: looks at one sample, or at one class, attract each other.

A look is one view of a sample in one modality. Vectors `(..., L, B, D)` are L looks at each of B samples; dimensions
before are sets that are contrasted each by itself. `present` `(..., L, B)` says which looks there are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmmask.discovery.numerics import full_precision, mean_over, only_present, presence


@full_precision
def info_nce(vectors: Tensor, temperature: float = 1.0, present: Tensor | None = None) -> Tensor:
    """SimCLR: the other looks at the same sample are positives, all else is negative."""
    same = torch.eye(vectors.shape[-2], dtype=torch.bool, device=vectors.device)
    return _contrast(vectors, same, presence(vectors, present), temperature)


@full_precision
def supervised_contrast(
    vectors: Tensor, labels: Tensor, labelled: Tensor, temperature: float = 0.07, present: Tensor | None = None
) -> Tensor:
    """SupCon (Khosla et al. 2020) among labelled samples: all looks at the same class are positives.

    `labels` `(B,)` may be anything where `labelled` `(B,)` is not.
    """
    same = labels[:, None] == labels
    return _contrast(vectors, same, presence(vectors, present) & labelled, temperature)


def _contrast(vectors: Tensor, same: Tensor, counted: Tensor, temperature: float) -> Tensor:
    """Mean over anchors of -log p(positive), itself a mean over the anchor's positives. `same` `(B, B)` are samples."""
    looks = vectors.shape[-3]
    counted = counted.flatten(-2)  # (..., N) with N = L B
    u = F.normalize(only_present(vectors.flatten(-3, -2), counted), dim=-1)
    similarity = u @ u.mT / temperature  # (..., N, N)
    itself = torch.eye(u.shape[-2], dtype=torch.bool, device=u.device)
    candidates = counted[..., None, :] & ~itself
    positives = same.repeat(looks, looks) & candidates
    lowest = torch.finfo(similarity.dtype).min  # finite also where an anchor has no candidate at all
    log_p = similarity - similarity.masked_fill(~candidates, lowest).logsumexp(-1, keepdim=True)
    found = log_p.masked_fill(~positives, 0).sum(-1) / positives.sum(-1).clamp(min=1)
    return -mean_over(found, counted & positives.any(-1))
