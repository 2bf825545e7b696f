"""Which class features belong to: cosines with one prototype of each class (SimGCD, Wen et al. 2023)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.heads.projector import Projector


class Prototypes(nn.Module):
    """Features `(..., dim)` to cosines `(..., classes)`, in float32: they will be divided by small temperatures.

    Only the directions of `weight` count: a weight norm whose gain is 1 and stays so.

    Args:
        dim: of features.
        classes: how many there are.
        looks: features are `(looks, ..., dim)`, and each look has prototypes of its own (0: one set for all).
    """

    def __init__(self, dim: int, classes: int, looks: int = 0) -> None:
        super().__init__()
        if dim < 1 or classes < 2:
            raise UserError(f"Prototypes: give a dim of 1 or more and 2 or more classes, not {dim} and {classes}.")
        start = torch.empty(classes, dim).uniform_(-(dim**-0.5), dim**-0.5)  # as nn.Linear begins
        self.weight = nn.Parameter(start.repeat(looks, 1, 1) if looks else start)

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            x, prototypes = (F.normalize(part.float(), dim=-1) for part in (features, self.weight))
            if prototypes.ndim == 2:
                return F.linear(x, prototypes)
            return torch.einsum("m...d,mkd->m...k", x, prototypes)


class Projected(NamedTuple):
    """Features as contrast and classes need them."""

    projection: Tensor  # (..., width), not normalised
    logits: Tensor  # (..., classes), cosines


class DiscoveryHead(nn.Module):
    """SimGCD's head: features `(..., dim)` are projected for contrast, and compared with prototypes.

    Prototypes look at the features of the backbone, not at the projection.
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        width: int = 256,
        hidden: int = 2048,
        layers: int = 3,
        batch_norm: bool = False,
        looks: int = 0,
    ) -> None:
        super().__init__()
        self.projector = Projector(dim, width, hidden, layers, batch_norm)
        self.prototypes = Prototypes(dim, classes, looks)

    def forward(self, features: Tensor) -> Projected:
        return Projected(self.projector(features), self.prototypes(features))

    def cosines(self, features: Tensor) -> Tensor:
        """With all prototypes `(..., classes)`."""
        return self.prototypes(features)
