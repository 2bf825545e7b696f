"""The one backbone: it encodes what is known into a memory and decodes what is asked from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.tokens import BLANK, Memory, TokenSet
from mmmask.transformer.block import Mlp, Norm, Style
from mmmask.transformer.caches import Cache
from mmmask.transformer.embedding import TokenEmbedding
from mmmask.transformer.linear import Linear
from mmmask.transformer.placed_embedding import PlacedEmbedding
from mmmask.transformer.rules import AttentionRule, Scores, among_valid
from mmmask.transformer.stack import Stack

Mode = Literal["joint", "read", "cross"]
DECODING = ("decoder", "norm", "embedding.answers", "embedding.unknown", "embedding.learned_asked")


class Condition(NamedTuple):
    """What adaptive blocks need of a condition, one `(B, parts * dim)` for each block."""

    encoder: list[Tensor]
    decoder: list[Tensor]


class Reuse(nn.Module):
    """Makes features of an earlier step fit for this one: `(B, N, dim) -> (B, N, dim)` (ENAT's projection)."""

    def __init__(self, dim: int, style: Style) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, 1e-6)
        self.mlp = Mlp(dim, style)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class Handover(nn.Module):
    """What a decoder gets of an encoder's features `(B, N, dim)`: they are normed and projected (4M)."""

    def __init__(self, dim: int, style: Style) -> None:
        super().__init__()
        self.norm, self.project = Norm(dim, style), Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.norm(x))


class MaskedTransformer(nn.Module):
    """Embedding, encoder and decoder. How the asked meet the memory is the `mode`:

    - `joint`: they go through the decoder together, all see all (NAT, MAE);
    - `read`: the asked see the memory and each other, the memory stays as it is (ENAT). If the encoder reads too,
      it can take over an older memory and encode only what has become known since;
    - `cross`: the asked see each other, under a rule, and then the memory (4M).
    """

    def __init__(
        self,
        embedding: TokenEmbedding | PlacedEmbedding,
        encoder: Stack,
        decoder: Stack,
        mode: Mode = "joint",
        classes: int = 0,
        registers: int = 0,
    ) -> None:
        """`classes` is how many there are for adaptive blocks to be conditioned on; `registers` are learned tokens
        that are always known."""
        super().__init__()
        dim, style = decoder.dim, decoder.style
        if not embedding.words.embedding_dim == encoder.dim == dim:
            raise UserError(
                f"MaskedTransformer: embedding, encoder and decoder must be equally wide; they have "
                f"{embedding.words.embedding_dim}, {encoder.dim} and {dim}."
            )
        if {"joint": "no"}.get(mode, mode) != decoder.reads:
            raise UserError(f"MaskedTransformer: the blocks of a decoder of mode {mode} cannot read='{decoder.reads}'.")
        if style.adaptive != bool(classes) or style.adaptive != encoder.style.adaptive:
            raise UserError(
                "MaskedTransformer: adaptive blocks and classes to adapt to go together; give both or none."
            )
        self.embedding, self.encoder, self.decoder, self.mode = embedding, encoder, decoder, mode
        placed = isinstance(embedding, PlacedEmbedding)
        if placed and (mode != "cross" or style.adaptive):
            raise UserError("MaskedTransformer: an embedding with fixed places needs mode cross, and plain blocks.")
        self.handover = Handover(dim, encoder.style) if placed else None
        self.norm = Norm(dim, style) if placed else nn.LayerNorm(dim)
        self.registers = nn.Parameter(0.02 * torch.randn(registers, dim)) if registers else None
        if classes:
            self.classes = nn.Embedding(classes + 1, dim)  # the last one stands for none of them
        if encoder.reads == "read":
            self.reuse = Reuse(dim, style)

    def condition(self, classes: Tensor) -> Condition | None:
        """What adaptive blocks need to know of classes `(B,)`, BLANK for none; does not change between steps."""
        if not self.decoder.style.adaptive:
            return None
        number = torch.where(classes == BLANK, self.classes.num_embeddings - 1, classes)
        features = self.classes(number)
        return Condition(self.encoder.modulations(features), self.decoder.modulations(features))

    def encode(
        self,
        known: TokenSet,
        condition: Condition | None = None,
        memory: Memory | None = None,
        caches: Sequence[Cache] | None = None,
    ) -> Memory:
        """Features of the known; with a `memory` of known ones from before, only of the new, which read the old.

        `caches`, one for each block of the encoder, keep keys and values, and bring those of the `memory` to a second
        call.
        """
        x = self.embedding(known)
        modulations = condition.encoder if condition else None
        if memory is None:
            x, all_known = self._registered(x, known)
            x = self.encoder(x, None, modulations, among_valid(all_known), caches=caches)
            return Memory(self._handed_over(x, known), all_known)
        both = memory.tokens.concat(known)
        if caches is not None:
            x = self.encoder(x, None, modulations, among_valid(both), caches=caches)
            return Memory(torch.cat([memory.features, self._handed_over(x, known)], 1), both)
        old = self.reuse(memory.features)
        if len(known):
            x = self.encoder(x, old, modulations, among_valid(both))
        return Memory(torch.cat([old, x], 1), both)

    def decode(
        self,
        asked: TokenSet,
        memory: Memory,
        condition: Condition | None = None,
        rule: AttentionRule | None = None,
        caches: Sequence[Cache] | None = None,
    ) -> Tensor:
        """Features `(B, N, dim)` of the asked. Where their content is not to be seen they must be blank.

        `caches`, one for each block of the decoder, keep keys and values, or bring those of tokens that are not here.
        """
        x, seen = self.embedding.asked(asked), memory.tokens
        both = seen.concat(asked)
        modulations = condition.decoder if condition else None
        if self.mode == "joint":
            x = torch.cat([memory.features, x], 1)
            x = self.decoder(x, None, modulations, _scores(rule, both, both), caches=caches)[:, len(seen) :]
        elif self.mode == "read":
            features = memory.features if len(seen) else None
            x = self.decoder(x, features, modulations, _scores(rule, asked, both), caches=caches)
        else:
            scores = _scores(rule, asked, asked), among_valid(seen)
            x = self.decoder(x, memory.kept or memory.features, modulations, *scores, caches=caches)
        return self.norm(x)

    def forward(
        self,
        known: TokenSet,
        asked: TokenSet,
        rule: AttentionRule | None = None,
        head: Callable[[Tensor], Any] | None = None,
    ) -> Any:
        """Features of the asked, or what a `head` makes of them: within it all weights of the embedding are whole,
        as heads that compare features with its words need them, also where they are sharded."""
        features = self.decode(asked, self.encode(known), rule=rule)
        return features if head is None else head(features)

    def keep(self, memory: Memory) -> Memory:
        """The memory with keys and values for each block of a decoder of mode `cross`, which asks it many times."""
        return replace(memory, kept=self.decoder.remember(memory.features))

    def _registered(self, x: Tensor, known: TokenSet) -> tuple[Tensor, TokenSet]:
        """With the registers before them."""
        if self.registers is None:
            return x, known
        zeros = known.modality.new_zeros(len(x), len(self.registers))
        registers = TokenSet(zeros, zeros, zeros)
        return torch.cat([self.registers.expand(len(x), -1, -1), x], 1), registers.concat(known)

    def _handed_over(self, x: Tensor, known: TokenSet) -> Tensor:
        """What the decoder gets of the features of the known; registers, which lie before them, stand nowhere."""
        if self.handover is None or not isinstance(self.embedding, PlacedEmbedding):
            return x
        return self.handover(x) + F.pad(self.embedding.places(known), (0, 0, x.shape[1] - len(known), 0))


def decodes(name: str) -> bool:
    """Whether a weight of a backbone, by its name, has no part in encoding."""
    return any(name == part or name.startswith(f"{part}.") for part in DECODING)


def _scores(rule: AttentionRule | None, asks: TokenSet, seen: TokenSet) -> Scores | None:
    """The rule, and that nobody looks at padding."""
    valid = among_valid(seen)
    if rule is None:
        return valid
    return rule(asks, seen) & (valid or Scores())
