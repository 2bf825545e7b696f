"""Looks at samples, each by itself, that place them in classes together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.discovery.encoders import Encoder
from mmmask.discovery.fusion import Fusion
from mmmask.discovery.looks import Looks
from mmmask.discovery.numerics import only_present
from mmmask.heads import DiscoveryHead
from mmmask.modalities import entry_of
from mmmask.tokenizers.ranks import sum_over_ranks
from mmmask.transformer import MaskedTransformer

PACE = 0.05  # at which the running mean of features follows them


class Adapter(nn.Module):
    """Pooled features `(B, dim)` of one look to `(B, width)` around zero: a norm, a layer, less their running mean.

    What all looks of a modality have in common would be most of every cosine, and hides what classes differ in.
    """

    mean: Tensor

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.norm, self.project = nn.LayerNorm(dim), nn.Linear(dim, width, bias=False)
        self.register_buffer("mean", torch.zeros(width))

    def forward(self, pooled: Tensor, present: Tensor) -> Tensor:
        """`present` `(B,)` are those that count for the mean, which training moves, over all ranks."""
        found = self.project(self.norm(pooled)).float()
        if self.training:
            self._follow(found.detach(), present)
        return found - self.mean

    @torch.no_grad()
    def _follow(self, found: Tensor, present: Tensor) -> None:
        count = present.sum().to(found.dtype)
        whole = sum_over_ranks(torch.cat([(found * present[:, None]).sum(0), count[None]]))
        pace = torch.where(self.mean.any(), PACE, 1.0) * (whole[-1] > 0)
        self.mean.copy_(self.mean + pace * (whole[:-1] / whole[-1].clamp(min=1) - self.mean))


class Discoverer(nn.Module):
    """See `looks`, for training, and `forward`.

    Args:
        encoder: what sees the samples.
        adapters: of each look.
        head: the projector that all looks share, and prototypes, which they share or have of their own.
        fusion: makes one prediction of all looks.
    """

    def __init__(self, encoder: Encoder, adapters: Mapping[str, Adapter], head: DiscoveryHead, fusion: Fusion) -> None:
        super().__init__()
        self.encoder, self.adapters, self.head, self.fusion = encoder, nn.ModuleDict(adapters), head, fusion
        self.codecs = nn.ModuleDict(encoder.codecs)  # kept in a file with the rest

    @property
    def backbone(self) -> MaskedTransformer | None:
        """That of the encoder, for others to begin with, if it has one."""
        return getattr(self.encoder, "backbone", None)

    def looks(self, batch: Mapping[str, Any], views: int = 2) -> Looks:
        """What there is to learn from: all views that a batch holds."""
        features, present = self._features([view_of(batch, view) for view in range(views)])
        looks = Looks.through(self.head, features, present)
        return replace(looks, weights=self.fusion.counted(looks.logits.detach(), looks.seen()))

    def forward(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Cosines `(M, B, K)` of each look at raw data with all prototypes, and which looks there are `(M, B)`."""
        features, present = self._features([batch])
        return self.head.cosines(features[:, 0]), present

    def directions(self, batch: Mapping[str, Any]) -> Tensor:
        """Features `(M, B, width)` of each look, of length 1, or 0 where there is none."""
        return self._directions(batch)[0]

    def joined(self, batch: Mapping[str, Any]) -> Tensor:
        """Features `(B, M * width)`: the directions of a sample's looks side by side, weighed as the fusion does."""
        parts, present = self._directions(batch)
        weights = self.fusion.counted(self.head.cosines(parts), present)
        return F.normalize((parts * weights.sqrt()[..., None]).transpose(0, 1).flatten(1), dim=-1)

    def _directions(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        features, present = self._features([batch])
        return only_present(F.normalize(features[:, 0], dim=-1), present), present

    def _features(self, batches: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
        """`(M, V, B, width)` of the views in `batches`, and which there are `(M, B)`."""
        found, there = [], []
        for name, (vectors, has) in self.encoder(self.encoder.read(batches)).items():
            found.append(self.adapters[name](vectors, has).unflatten(0, (len(batches), -1)))
            there.append(has.unflatten(0, (len(batches), -1)).all(0))
        return torch.stack(found), torch.stack(there)


def view_of(batch: Mapping[str, Any], view: int) -> dict[str, Any]:
    """The batch as this view shows it; what does not differ between views is the same in all."""

    def seen(entries: Mapping[str, Any]) -> dict[str, Any]:
        return {name: entries.get(entry_of(name, view), value) for name, value in entries.items() if "@" not in name}

    found = seen(batch)
    return found | {"present": seen(found["present"])} if "present" in found else found
