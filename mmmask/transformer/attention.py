"""Multi-head self-attention on a set of tokens."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError


class Attention(nn.Module):
    """All tokens attend to all: `(B, N, dim) -> (B, N, dim)`."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise UserError(f"Attention: dim {dim} does not divide into {heads} heads; choose a multiple.")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, H, N, D/H)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
