"""The pre-norm transformer block, with the few switches in which the families differ."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.transformer.attention import Attention
from mmmask.transformer.caches import Cache
from mmmask.transformer.linear import Linear
from mmmask.transformer.rules import Scores


@dataclass(frozen=True)
class Style:
    """How the blocks of a family are made.

    `adaptive`: shift, scale and gate of each part come from a condition, and start at zero (adaLN-zero). `mlp`: GELU,
    or SwiGLU, whose hidden layer is 2/3 as wide and has a gate. `qk_norm`: of queries and keys, each head by itself.
    `dropout`: share of what each part adds that training leaves out.
    """

    mlp_ratio: float = 4.0
    gelu: Literal["exact", "tanh"] = "exact"
    qkv_bias: bool = True
    norm_eps: float = 1e-5
    adaptive: bool = False
    mlp: Literal["gelu", "swiglu"] = "gelu"
    bias: bool = True
    qk_norm: bool = False
    dropout: float = field(default=0.0, compare=False)  # blocks that differ in it are made alike


PLAIN = Style()


class Norm(nn.LayerNorm):
    """Layer norm with weights of its own or, if adaptive, with a shift and scale `(B, 1, dim)` that are given."""

    def __init__(self, dim: int, style: Style) -> None:
        super().__init__(dim, style.norm_eps, elementwise_affine=not style.adaptive, bias=style.bias)

    def forward(self, x: Tensor, shift: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        x = super().forward(x)
        return x if shift is None or scale is None else torch.addcmul(shift, x, 1 + scale)


class Mlp(nn.Sequential):
    """Two layers with GELU between: `(B, N, dim) -> (B, N, dim)`."""

    def __init__(self, dim: int, style: Style) -> None:
        hidden = int(dim * style.mlp_ratio)
        gelu = nn.GELU(approximate="none" if style.gelu == "exact" else "tanh")
        super().__init__(Linear(dim, hidden, style.bias), gelu, Linear(hidden, dim, style.bias))

    def forward(self, x: Tensor) -> Tensor:
        x = self[0](x)
        if torch.is_grad_enabled():
            return self[2](self[1](x))
        return self[2](torch.ops.aten.gelu_(x, approximate=self[1].approximate))  # the widest tensor, once


class Gated(nn.Module):
    """SwiGLU (Shazeer 2020): `silu(gate(x)) * up(x)`, then down again: `(B, N, dim) -> (B, N, dim)`."""

    def __init__(self, dim: int, style: Style) -> None:
        super().__init__()
        hidden = int(2 * dim * style.mlp_ratio / 3)
        self.gate, self.up = Linear(dim, hidden, style.bias), Linear(dim, hidden, style.bias)
        self.down = Linear(hidden, dim, style.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """Attention, then an MLP, each added to what came in: `(B, N, dim) -> (B, N, dim)`.

    `reads`: attention sees a memory beside the tokens (`read`), or after them in a step of its own (`cross`).
    `long_skip`: what an earlier block gave is merged into what comes in.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        style: Style = PLAIN,
        reads: Literal["no", "read", "cross"] = "no",
        long_skip: bool = False,
    ) -> None:
        super().__init__()
        if long_skip:
            self.merge = Linear(2 * dim, dim)
        self.norm_attention = Norm(dim, style)
        given = {"bias": style.qkv_bias, "out_bias": style.bias}
        norm = partial(nn.LayerNorm, eps=style.norm_eps, bias=style.bias) if style.qk_norm else None
        self.attention = Attention(dim, heads, reads=reads == "read", norm=norm, **given)
        if reads != "no":
            self.norm_memory = Norm(dim, style)
        if reads == "cross":
            self.norm_cross = Norm(dim, style)
            self.cross = Attention(dim, heads, own=False, reads=True, norm=norm, **given)
        self.norm_mlp = Norm(dim, style)
        self.mlp = (Gated if style.mlp == "swiglu" else Mlp)(dim, style)
        self.style, self.reads, self.long_skip = style, reads, long_skip
        self.parts = 8 if reads == "read" else 6  # shift, scale (and those of the memory), gate; shift, scale, gate
        if style.adaptive:
            self.modulation = nn.Sequential(nn.SiLU(), Linear(dim, self.parts * dim))

    def forward(
        self,
        x: Tensor,
        memory: Tensor | tuple[Tensor, Tensor] | None = None,
        modulation: Tensor | None = None,
        scores: Scores | None = None,
        memory_scores: Scores | None = None,
        skip: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """`memory` (B, M, dim), or what `remember` makes of it for a `cross` step; `modulation` (B, parts * dim), as
        the module of that name makes it of a condition.

        `scores` are those of attention, over memory and tokens if it reads; `memory_scores` those of a `cross` step.
        """
        if self.long_skip:
            assert skip is not None
            x = self.merge(torch.cat([x, skip], -1))
        parts = [None] * self.parts if modulation is None else modulation[:, None].chunk(self.parts, -1)
        shift, scale, *of_memory, gate, shift_mlp, scale_mlp, gate_mlp = parts
        seen = None
        if self.reads == "read" and isinstance(memory, Tensor):
            seen = self.norm_memory(memory, *of_memory)
        x = self._add(x, self.attention(self.norm_attention(x, shift, scale), seen, scores, cache), gate)
        if self.reads == "cross" and memory is not None:
            seen = self.norm_memory(memory) if isinstance(memory, Tensor) else memory
            x = self._add(x, self.cross(self.norm_cross(x), seen, memory_scores))
        return self._add(x, self.mlp(self.norm_mlp(x, shift_mlp, scale_mlp)), gate_mlp)

    def remember(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """What a `cross` step needs of a memory, for many passes."""
        return self.cross.remember(self.norm_memory(memory))

    def _add(self, x: Tensor, more: Tensor, gate: Tensor | None = None) -> Tensor:
        if self.training and self.style.dropout:
            more = F.dropout(more, self.style.dropout)
        return x + more if gate is None else torch.addcmul(x, gate, more)
