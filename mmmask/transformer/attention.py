"""Multi-head attention: over the tokens themselves, a memory, or both."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.transformer.caches import Cache
from mmmask.transformer.linear import Linear
from mmmask.transformer.rules import Scores, attend


class Attention(nn.Module):
    """Tokens look at each other and, with `reads`, at a memory too, under one softmax: `(B, N, dim) -> (B, N, dim)`.

    Keys and values of the memory have projections of their own (ENAT). Without `own`, the memory is all they see.
    `norm` makes the norm of queries and keys, each head by itself (4M).
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        own: bool = True,
        reads: bool = False,
        bias: bool = True,
        out_bias: bool = True,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise UserError(f"Attention: dim {dim} does not divide into {heads} heads; choose a multiple.")
        self.heads = heads
        if own:
            self.qkv = Linear(dim, 3 * dim, bias)
        else:
            self.q = Linear(dim, dim, bias)
        if reads:
            self.kv_memory = Linear(dim, 2 * dim, bias)
        if norm is not None:
            self.norm_q, self.norm_k = norm(dim // heads), norm(dim // heads)
        self.own, self.norms = own, norm is not None
        self.out = Linear(dim, dim, out_bias)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | tuple[Tensor, Tensor] | None = None,
        scores: Scores | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Keys stand in the order memory `(B, M, dim)`, what a `cache` brings, then `x`; `scores` are over them. Of a
        memory that is asked often, keys and values are given: see `remember`."""
        if self.own:
            q, k, v = self._heads(self.qkv(x), 3)
        else:
            (q,), k, v = self._heads(self.q(x), 1), None, None
        if self.norms:
            q, k = self.norm_q(q), None if k is None else self.norm_k(k)
        if cache is not None and k is not None and v is not None:
            k, v = cache(k, v)
        if memory is not None:
            k_memory, v_memory = self.remember(memory) if isinstance(memory, Tensor) else memory
            k = k_memory if k is None else torch.cat([k_memory, k], 2)
            v = v_memory if v is None else torch.cat([v_memory, v], 2)
        assert k is not None
        assert v is not None
        return self.out(attend(q, k, v, scores).transpose(1, 2).flatten(2))

    def remember(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values `(B, H, M, Dh)` of a memory `(B, M, dim)`."""
        k, v = self._heads(self.kv_memory(memory), 2)
        return self.norm_k(k) if self.norms else k, v

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """`parts` tensors `(B, H, N, Dh)` of one `(B, N, parts * dim)`."""
        return x.unflatten(-1, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
