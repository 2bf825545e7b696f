"""Splits with exact counts: a law says how many tokens are asked, a pattern which."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmmask.errors import UserError
from mmmask.masking.patterns import Pattern, RandomPattern
from mmmask.masking.ratios import Beta, Ratio
from mmmask.tokens import Split, TokenSet


@dataclass(frozen=True)
class MaskContext:
    """What a sampler may look at: how far training is (0..1), and a score for each token `(B, N)`.

    Samples are dealt out in turn, s to rank s % world. With the same generator on all ranks, a sampler that draws
    for all of them and keeps its own makes training independent of their number.
    """

    progress: float = 0.0
    scores: Tensor | None = None
    rank: int = 0
    world: int = 1

    def own(self, drawn: Tensor) -> Tensor:
        """What falls to this rank of what was drawn for the samples of all."""
        return drawn[self.rank :: self.world]


NO_CONTEXT = MaskContext()


class MaskSampler(ABC):
    """Pure given the generator; counts are exact; drawn on the CPU, whatever trains."""

    @abstractmethod
    def __call__(
        self, tokens: TokenSet, context: MaskContext = NO_CONTEXT, generator: torch.Generator | None = None
    ) -> Split: ...


class RatioMask(MaskSampler):
    """Draws a share of asked tokens `per` sample or batch; at least one token is asked, and `keep` stay known."""

    def __init__(
        self,
        ratio: Ratio | None = None,
        pattern: Pattern | None = None,
        per: Literal["sample", "batch"] = "sample",
        keep: int = 0,
    ) -> None:
        self.ratio, self.pattern, self.per, self.keep = ratio or Beta(), pattern or RandomPattern(), per, keep

    def __call__(
        self, tokens: TokenSet, context: MaskContext = NO_CONTEXT, generator: torch.Generator | None = None
    ) -> Split:
        batch, length = tokens.modality.shape
        if not 0 <= self.keep < length:
            raise UserError(f"RatioMask: keep is {self.keep}, but there are {length} tokens; one at least is asked.")
        total = batch * context.world
        ratio = self.ratio(total if self.per == "sample" else 1, generator).expand(total)
        asked = (ratio * length).round().long().clamp(1, length - self.keep)
        order = context.own(self.pattern(total, length, generator)).argsort(-1)
        return split(order, context.own(asked))


def split(order: Tensor, asked: Tensor) -> Split:
    """The first so many `(B,)` tokens of each order `(B, L)` are asked, the others known."""
    length = order.shape[1]
    most, fewest = int(asked.max()), int(asked.min())
    if most == fewest:
        return Split(order[:, most:], order[:, :most])
    place = torch.arange(length)
    known = length - asked[:, None]
    return Split(
        order.flip(1)[:, : length - fewest],
        order[:, :most],
        place[: length - fewest] < known,
        place[:most] < asked[:, None],
    )
