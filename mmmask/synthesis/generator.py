"""The model that synthesis decodes with: a backbone, a head for image tokens, and what images are conditioned on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.heads import TokenLogits, answers
from mmmask.tokens import BLANK, Memory, Split, TokenSet, rows, tokens_of, vectors_of
from mmmask.transformer import Condition, MaskedTransformer, PlacedEmbedding
from mmmask.transformer.caches import Cache


class Context(NamedTuple):
    """What is known before any image token: tokens of a class or text, or a condition for adaptive blocks. `widths`
    are how many tokens each branch of guidance has, if there are several, one below the other."""

    tokens: TokenSet | None
    condition: Condition | None
    widths: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Conditions:
    """What is known of other modalities: all of it or, for guidance, parts that pull with these `weights`; and what
    is known without them."""

    parts: Sequence[TokenSet]
    without: TokenSet
    weights: tuple[float, ...] = (1.0,)

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.without.modality)

    @property
    def device(self) -> torch.device:
        return self.without.modality.device


Given = Tensor | Conditions  # classes (B,), text vectors (B, n, channels), or conditions


class ImageGenerator(nn.Module):
    """Answers for the asked among the image tokens `(B, L)`, given the known ones and a class or text.

    The image is the one grid of words that the backbone has; the other modality is what images follow.
    """

    def __init__(self, backbone: MaskedTransformer) -> None:
        super().__init__()
        catalogue = backbone.embedding.catalogue
        grids = [m for m in catalogue.modalities if m.kind == "grid" and m.vocab_size]
        if len(grids) != 1 or len(catalogue.names) > 2:
            raise UserError(
                "ImageGenerator: a backbone for images has one grid of tokens with ids, and at most one modality that "
                f"images follow; this one has {', '.join(map(str, catalogue.modalities))}."
            )
        self.modality = grids[0]
        if backbone.mode == "joint" and len(backbone.encoder.blocks):
            raise UserError("ImageGenerator: a backbone of mode joint takes all tokens at once; give it no encoder.")
        self.backbone, self.number = backbone, catalogue.number(self.modality.name)
        if not isinstance(backbone.embedding, PlacedEmbedding):  # whose answers have words of their own
            assert self.modality.vocab_size
            self.head = TokenLogits(backbone.norm.normalized_shape[0], self.modality.vocab_size)
        others = [name for name in catalogue.names if name != self.modality.name]
        self.source = others[0] if others else "class"

    @property
    def classes(self) -> int | None:
        """How many classes there are; None if images follow texts."""
        if self.backbone.decoder.style.adaptive:
            return self.backbone.classes.num_embeddings - 1
        return self.backbone.embedding.catalogue[self.source].vocab_size

    @property
    def reuses(self) -> bool:
        """Whether memory can be handed from step to step, so that only new tokens are encoded."""
        return self.backbone.encoder.reads == "read"

    def tokens(self, ids: Tensor) -> TokenSet:
        """Image tokens in order, from ids `(B, L)`."""
        if ids.shape[1] != self.modality.length:
            raise UserError(
                f"images have {ids.shape[1]} tokens, the model is made for {self.modality.length}; set tokens of the "
                "backbone to the size of the tokenizer's grid."
            )
        return tokens_of(ids, self.number)

    def context(self, given: Tensor) -> Context:
        """Of classes `(B,)`, BLANK for none, or of text vectors `(B, n, channels)`."""
        if self.backbone.decoder.style.adaptive:
            return Context(None, self.backbone.condition(given))
        catalogue = self.backbone.embedding.catalogue
        of, number = catalogue[self.source], catalogue.number(self.source)
        if not given.is_floating_point():
            tokens = tokens_of(given[:, None], number)
            if isinstance(self.backbone.embedding, PlacedEmbedding):  # no word for no class: then there is no token
                tokens = replace(tokens, valid=given[:, None] != BLANK)
            return Context(tokens, None)
        if given.shape[1:] != (of.length, of.channels):
            raise UserError(
                f"text vectors have the shape {tuple(given.shape[1:])}, the model is made for {of.length} of "
                f"{of.channels} numbers; use the text encoder it was trained with."
            )
        return Context(vectors_of(given, number), None)

    def contexts(self, given: Given, guided: bool) -> Context:
        """One below the other: with what is given and, if guided, without it."""
        assert isinstance(given, Tensor)
        return self.context(torch.cat([given, self.nothing(given)]) if guided else given)

    def nothing(self, given: Tensor) -> Tensor:
        """The class or text that stands for none, in the shape of `given`."""
        return torch.full_like(given, BLANK) if not given.is_floating_point() else torch.zeros_like(given)

    def remember(
        self,
        tokens: TokenSet,
        split: Split,
        context: Context,
        memory: Memory | None = None,
        caches: Sequence[Cache] | None = None,
    ) -> Memory:
        """The memory of the known tokens; of those known since, if there is a `memory` from before. In mode joint it
        is the context alone: there the known are decoded with the asked."""
        if self.backbone.mode == "joint":
            return self.backbone.encode(context.tokens or tokens.select(split.known[:, :0]))
        known = tokens.select(split.known, split.known_valid)
        if memory is None and context.tokens is not None:
            known = context.tokens.concat(known)
        return self.backbone.encode(known, context.condition, memory, caches)

    def remember_more(self, new: TokenSet, context: Context, memory: Memory, caches: Sequence[Cache]) -> Memory:
        """The memory with tokens that have become known since, at the cost of these alone; `caches` as they were
        given to `remember`, which must grow."""
        if self.backbone.mode == "joint":
            return memory
        if self.reuses:
            return self.backbone.encode(new, context.condition, memory)
        return self.backbone.encode(new, context.condition, memory, caches)

    def answer(
        self,
        tokens: TokenSet,
        split: Split,
        context: Context,
        memory: Memory,
        caches: Sequence[Cache] | None = None,
    ) -> Tensor:
        """Logits `(B, A, V)` of the asked. `caches` keep keys and values of what is decoded: of the context and all
        tokens in mode joint, else of the asked."""
        if self.backbone.mode == "joint":
            features = self.backbone.decode(tokens, memory, context.condition, caches=caches)
            return self.words(rows(features, split.asked))
        asked = tokens.select(split.asked, split.asked_valid)
        return self.words(self.backbone.decode(asked, memory, context.condition, caches=caches))

    def answer_few(self, few: TokenSet, done: int, context: Context, memory: Memory, caches: Sequence[Cache]) -> Tensor:
        """Logits of these tokens alone, but for the first `done`, which are known; `caches` bring the others."""
        if self.backbone.mode != "joint":  # what is known is in the memory
            few, done = few.select(_columns(few)[:, done:]), 0
        return self.words(self.backbone.decode(few, memory, context.condition, caches=caches)[:, done:])

    def survey(
        self, tokens: TokenSet, split: Split, context: Context, memory: Memory | None = None
    ) -> tuple[Tensor, Tensor, Memory | None]:
        """Features `(B, L, dim)` of all image tokens, and what `forward` gives."""
        backbone, tokens = self.backbone, tokens.blank(split.asked, split.asked_valid)
        memory = self.remember(tokens, split, context, memory)
        if backbone.mode == "joint":
            features = backbone.decode(tokens, memory, context.condition)
            return features, self.words(rows(features, split.asked)), None
        asked = tokens.select(split.asked, split.asked_valid)
        answers = backbone.decode(asked, memory, context.condition)
        first = sum(len(part) for part in (backbone.registers, context.tokens) if part is not None)
        both = torch.cat([backbone.norm(memory.features[:, first:]), answers], 1)
        whole = memory.tokens.concat(asked)
        place = torch.where(whole.is_valid(), whole.position, len(tokens))[:, first:]  # padding falls off the end
        features = both.new_zeros(len(both), len(tokens) + 1, both.shape[2])
        features = features.scatter(1, place[..., None].expand_as(both), both)[:, :-1]
        return features, self.words(answers), memory if self.reuses else None

    def words(self, features: Tensor) -> Tensor:
        """Logits of features."""
        if isinstance(self.backbone.embedding, PlacedEmbedding):
            return answers.logits(self.backbone.embedding, self.modality.name, features)
        table = self.backbone.embedding.table(self.modality.name).detach()  # as published: learned as input alone
        return self.head(features, table)

    def forward(
        self, tokens: TokenSet, split: Split, context: Context, memory: Memory | None = None
    ) -> tuple[Tensor, Memory | None]:
        """Logits `(B, A, V)` of the asked, and the memory if it can be reused.

        With a `memory`, `split.known` are the tokens that have become known since.
        """
        tokens = tokens.blank(split.asked, split.asked_valid)
        memory = self.remember(tokens, split, context, memory)
        return self.answer(tokens, split, context, memory), memory if self.reuses else None


def _columns(tokens: TokenSet) -> Tensor:
    return torch.arange(len(tokens), device=tokens.position.device).expand_as(tokens.position)
