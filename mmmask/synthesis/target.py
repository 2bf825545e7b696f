"""One modality of an any-to-any model as a generator: what every sampler can decode, given any others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from mmmask.errors import UserError
from mmmask.synthesis.generator import Conditions, Context, Given, ImageGenerator
from mmmask.tokens import Memory, Split, TokenSet
from mmmask.transformer.caches import Cache
from mmmask.transformer.masked_transformer import MaskedTransformer
from mmmask.transformer.placed_embedding import PlacedEmbedding


class Target(ImageGenerator):
    """Answers for a grid of an any-to-any backbone (4M), given `Conditions` of other modalities."""

    def __init__(self, backbone: MaskedTransformer, name: str) -> None:
        nn.Module.__init__(self)
        embedding = backbone.embedding
        if not isinstance(embedding, PlacedEmbedding):
            raise UserError("Target: only an any-to-any backbone (4M) has several modalities to decode.")
        self.modality, self.number = embedding.catalogue[name], embedding.catalogue.number(name)
        if self.modality.vocab_size is None or self.modality.kind == "sequence":
            raise UserError(f"Target: {name} is no grid of tokens with ids.")
        self.backbone, self.source = backbone, "conditions"

    @property
    def classes(self) -> int | None:
        return None

    def contexts(self, given: Given, guided: bool) -> Context:
        """One below the other: with each part of the conditions and, if guided, without any."""
        assert isinstance(given, Conditions)
        if not guided:
            return Context(given.parts[0], None)
        branches = [*given.parts, given.without]
        return Context(TokenSet.below(branches), None, tuple(map(len, branches)))

    def remember(
        self,
        tokens: TokenSet,
        split: Split,
        context: Context,
        memory: Memory | None = None,
        caches: Sequence[Cache] | None = None,
    ) -> Memory:
        """As every generator; but branches with fewer conditions are encoded by themselves, without padding."""
        # Padded, as one batch, they take as long or up to twice as long (64 tokens against 0 or 16, 196 against 64, one
        # to eight samples, on a CPU); one batch is faster only where conditions have a few tokens.
        given, widths = context.tokens, context.widths
        if given is None or widths is None or min(widths) == max(widths) or caches is not None:
            return super().remember(tokens, split, context, memory, caches)
        known = tokens.select(split.known, split.known_valid)
        parts = zip(widths, given.in_parts(len(widths)), known.in_parts(len(widths)), strict=True)
        found = []
        for width, condition, rest in parts:
            first = condition.select(torch.arange(width, device=given.position.device).expand(len(rest.modality), -1))
            found.append(_widened(self.backbone.encode(first.concat(rest)), len(rest), len(given) - width))
        return Memory(torch.cat([part.features for part in found]), TokenSet.below([part.tokens for part in found]))


def _widened(memory: Memory, after: int, more: int) -> Memory:
    """With padding before the last tokens, of which there are `after`."""
    x, tokens = memory.features, replace(memory.tokens, values=None)
    at = x.shape[1] - after
    columns = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
    padded = tokens.select(columns[:, :at]).pad_to(at + more).concat(tokens.select(columns[:, at:]))
    return Memory(torch.cat([x[:, :at], x.new_zeros(len(x), more, x.shape[2]), x[:, at:]], 1), padded)
