"""Blocks one after the other, with U-ViT's long skips if wanted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.transformer.block import PLAIN, Block, Style
from mmmask.transformer.caches import Cache
from mmmask.transformer.rules import Scores


class Stack(nn.Module):
    """`depth` blocks: `(B, N, dim) -> (B, N, dim)`.

    With `long_skips` the i-th block from the end gets what the i-th from the start gave; a middle one has no partner.
    """

    def __init__(
        self,
        depth: int,
        dim: int,
        heads: int,
        style: Style = PLAIN,
        reads: Literal["no", "read", "cross"] = "no",
        long_skips: bool = False,
    ) -> None:
        super().__init__()
        if depth < 0:
            raise UserError(f"Stack: depth is {depth}; give 0 blocks or more.")
        self.dim, self.style, self.reads = dim, style, reads
        self.partners = depth // 2 if long_skips else 0
        self.blocks = nn.ModuleList(
            Block(dim, heads, style, reads, long_skip=i >= depth - self.partners) for i in range(depth)
        )

    def modulations(self, condition: Tensor) -> list[Tensor]:
        """Shifts, scales and gates of each block for a condition `(B, dim)`."""
        return [block.get_submodule("modulation")(condition) for block in self.blocks]

    def remember(self, memory: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of a memory for each block, if they are of kind `cross`."""
        return [block.remember(memory) for block in self.blocks if isinstance(block, Block)]

    def forward(
        self,
        x: Tensor,
        memory: Tensor | Sequence[tuple[Tensor, Tensor]] | None = None,
        modulations: Sequence[Tensor] | None = None,
        scores: Scores | None = None,
        memory_scores: Scores | None = None,
        caches: Sequence[Cache] | None = None,
    ) -> Tensor:
        """`modulations`, `caches`, keys and values of the memory: one for each block."""
        given: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            skip = given.pop() if block.long_skip else None
            modulation, cache = modulations[i] if modulations else None, caches[i] if caches else None
            seen = memory if memory is None or isinstance(memory, Tensor) else memory[i]
            x = block(x, seen, modulation, scores, memory_scores, skip, cache)
            if i < self.partners:
                given.append(x)
        return x
