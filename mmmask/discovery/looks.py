"""What an objective is given: looks at the samples of a batch, each a view in a modality."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmmask.discovery.numerics import only_present, presence
from mmmask.errors import UserError
from mmmask.heads import Projected


@dataclass(frozen=True)
class Looks:
    """Of B samples in M modalities, V views each. `present` `(M, B)` says which modalities a sample has; `weights`
    `(M, V, B)` how much each look counts in what all of them say together (None: the same)."""

    features: Tensor  # (M, V, B, D)
    projections: Tensor  # (M, V, B, P)
    logits: Tensor  # (M, V, B, K)
    present: Tensor | None = None
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        shape = self.features.shape[:3]
        if self.features.ndim != 4 or self.projections.shape[:3] != shape or self.logits.shape[:3] != shape:
            found = ", ".join(str(tuple(x.shape)) for x in (self.features, self.projections, self.logits))
            raise UserError(
                f"Looks: features, projections and logits must be (modalities, views, samples, ...); they are {found}."
            )
        if shape[1] < 2:
            raise UserError("Looks: discovery learns from two views of each sample, here is one; augment twice.")
        if self.present is not None and self.present.shape != (shape[0], shape[2]):
            raise UserError(
                f"Looks: present must be (modalities, samples) = {(shape[0], shape[2])}, "
                f"it is {tuple(self.present.shape)}."
            )

    @classmethod
    def through(cls, head: Callable[[Tensor], Projected], features: Tensor, present: Tensor | None = None) -> Looks:
        """What one head, shared by all modalities, sees in features `(M, V, B, D)`.

        Absent ones are zeros before it, so that nothing of what stood there reaches its weights.
        """
        if present is not None and present.shape == (len(features), features.shape[2]):
            features = only_present(features, present[:, None].expand(features.shape[:3]))
        return cls(features, *head(features), present)

    def seen(self) -> Tensor:
        """Which looks there are, `(M, V, B)`."""
        return presence(self.features, None if self.present is None else self.present[:, None])

    def other_views(self) -> Tensor:
        """Who teaches whom `(V, V)`: each view all others."""
        return ~torch.eye(self.features.shape[1], dtype=torch.bool, device=self.features.device)
