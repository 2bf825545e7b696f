"""Learn little: matrices stay as they are, and products of two narrow ones are added to them (LoRA, Hu et al. 2021)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mmmask.errors import UserError

MATRICES = {nn.Linear: "weight", nn.MultiheadAttention: "in_proj_weight"}
PART = re.compile(r"(.*\.)?parametrizations\.(\w+)\.(original|0\.down|0\.up)")


class LowRank(nn.Module):
    """What is added to a matrix `(out, in)`: zero at the start, of this rank."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        out, size = weight.shape
        self.down = nn.Parameter(torch.randn(rank, size, device=weight.device) / size**0.5)
        self.up = nn.Parameter(torch.zeros(out, rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.up @ self.down).to(weight.dtype)


def add_low_rank(modules: Iterable[nn.Module], rank: int) -> None:
    """Only such products learn, one for each matrix of the layers in these modules; and nothing else in them."""
    if rank < 1:
        raise UserError(f"low_rank is {rank}; give 1 or more.")
    for module in modules:
        module.requires_grad_(False)
        for layer in list(module.modules()):
            for kind, name in MATRICES.items():
                if isinstance(layer, kind) and not parametrize.is_parametrized(layer, name):
                    parametrize.register_parametrization(layer, name, LowRank(getattr(layer, name), rank))


def with_products(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of which some have products beside them, as those of a plain module."""
    found = {}
    for name, value in weights.items():
        part = PART.fullmatch(name)
        if part is None:
            found[name] = value
        elif part[3] == "original":
            up, down = (weights[name.removesuffix("original") + side].float() for side in ("0.up", "0.down"))
            found[f"{part[1] or ''}{part[2]}"] = value + (up @ down).to(value.dtype)
    return found
