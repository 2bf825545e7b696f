"""Attention rules: who may look at whom, and how much.

A rule is a function of the tokens that look and the tokens that are looked at. What it returns is applied to the
logits in this order: `softmax(allow(logits * mul + add)) * post_mul`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mmmask.errors import UserError
from mmmask.tokens import TokenSet

Kernel = Callable[[Tensor, Tensor, Tensor, "Scores"], Tensor]


@dataclass(frozen=True)
class Scores:
    """What a rule says: each tensor broadcasts to `(B, H, Nq, Nk)`, or is None. A `kernel` replaces the softmax.

    `allow` and `add` keep the fused attention; `mul` and `post_mul` need the whole matrix of weights.
    """

    add: Tensor | None = None
    mul: Tensor | None = None
    post_mul: Tensor | None = None
    allow: Tensor | None = None
    kernel: Kernel | None = None

    def __and__(self, other: Scores) -> Scores:
        """Both rules at once."""
        if self.kernel and other.kernel:
            raise UserError("two attention rules bring a kernel of their own; only one of them can be used.")
        return Scores(
            _joined(torch.add, self.add, other.add),
            _joined(torch.mul, self.mul, other.mul),
            _joined(torch.mul, self.post_mul, other.post_mul),
            _joined(torch.logical_and, self.allow, other.allow),
            self.kernel or other.kernel,
        )


class AttentionRule(Protocol):
    """What `asks` (B, Nq) may see of `seen` (B, Nk)."""

    def __call__(self, asks: TokenSet, seen: TokenSet) -> Scores: ...


def attend(q: Tensor, k: Tensor, v: Tensor, scores: Scores | None = None) -> Tensor:
    """Attention under `scores`: `q` (B, H, Nq, Dh), `k` and `v` (B, H, Nk, Dh), out (B, H, Nq, Dh)."""
    if scores is None:
        return _fused(q, k, v)
    if scores.kernel is not None:
        return scores.kernel(q, k, v, scores)
    if scores.mul is None and scores.post_mul is None:
        return _fused(q, k, v, _mask(scores, q.dtype))
    logits = q @ k.mT / q.shape[-1] ** 0.5
    if scores.mul is not None:
        logits = logits * scores.mul
    mask = _mask(scores, q.dtype)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
    weights = logits.softmax(-1)
    return (weights if scores.post_mul is None else weights * scores.post_mul) @ v


def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Fused attention; on a CPU in float32 for training, where the way back in bfloat16 takes three times as long."""
    if q.device.type != "cpu" or not torch.is_grad_enabled():
        return F.scaled_dot_product_attention(q, k, v, mask)
    wide = torch.promote_types(q.dtype, torch.float32)
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(wide)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.to(wide), k.to(wide), v.to(wide), mask).to(q.dtype)


def among_valid(seen: TokenSet) -> Scores | None:
    """Nobody looks at padding."""
    return None if seen.valid is None else Scores(allow=seen.valid[:, None, None])


class SameModality:
    """Tokens see those of their own modality."""

    def __call__(self, asks: TokenSet, seen: TokenSet) -> Scores:
        return Scores(allow=(asks.modality[:, :, None] == seen.modality[:, None])[:, None])


class Causal:
    """Tokens see those at their own and earlier positions."""

    def __call__(self, asks: TokenSet, seen: TokenSet) -> Scores:
        return Scores(allow=(asks.position[:, :, None] >= seen.position[:, None])[:, None])


class AmongTargets:
    """Tokens see those of their own modality: in `sequences` (their numbers) those at their own and earlier
    positions, elsewhere all (4M)."""

    def __init__(self, sequences: Sequence[int]) -> None:
        self.sequences = sequences

    def __call__(self, asks: TokenSet, seen: TokenSet) -> Scores:
        ordered = torch.isin(asks.modality, asks.modality.new_tensor(self.sequences))
        earlier = asks.position[:, :, None] >= seen.position[:, None]
        allow = (asks.modality[:, :, None] == seen.modality[:, None]) & (earlier | ~ordered[:, :, None])
        return Scores(allow=allow[:, None])


def _mask(scores: Scores, dtype: torch.dtype) -> Tensor | None:
    """`allow` and `add` as the one mask that fused attention takes."""
    if scores.add is None:
        return scores.allow
    add = scores.add.to(dtype)
    return add if scores.allow is None else add.masked_fill(~scores.allow, -torch.inf)


def _joined(join: Callable[[Tensor, Tensor], Tensor], a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return join(a, b)
