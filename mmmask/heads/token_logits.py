"""Which token it is: features compared with the words of the vocabulary (BERT's head)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.transformer.linear import Linear, linear


class TokenLogits(nn.Module):
    """`(B, N, dim)` to logits `(B, N, vocab_size)`; the words `(vocab_size, dim)` are given."""

    def __init__(self, dim: int, vocab_size: int) -> None:
        super().__init__()
        self.project = Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        nn.init.trunc_normal_(self.project.weight, std=0.02)
        nn.init.zeros_(self.project.bias)

    def forward(self, features: Tensor, words: Tensor) -> Tensor:
        x = self.norm(F.gelu(self.project(features)))
        return linear(x, words, self.bias)
