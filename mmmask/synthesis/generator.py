"""The model that synthesis decodes with: a backbone, a head for image tokens, and what images are conditioned on."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.heads import TokenLogits
from mmmask.tokens import BLANK, Memory, Split, TokenSet, rows, tokens_of, vectors_of
from mmmask.transformer import Condition, MaskedTransformer


class Context(NamedTuple):
    """What is known before any image token: tokens of a class or text, or a condition for adaptive blocks."""

    tokens: TokenSet | None
    condition: Condition | None


class ImageGenerator(nn.Module):
    """Answers for the asked among the image tokens `(B, L)`, given the known ones and a class or text."""

    def __init__(self, backbone: MaskedTransformer, image: str = "image") -> None:
        super().__init__()
        self.modality = backbone.embedding.catalogue[image]
        if self.modality.vocab_size is None:
            raise UserError(f"ImageGenerator: '{image}' has continuous tokens; it needs ids to generate.")
        if backbone.mode == "joint" and len(backbone.encoder.blocks):
            raise UserError("ImageGenerator: a backbone of mode joint takes all tokens at once; give it no encoder.")
        self.backbone = backbone
        self.head = TokenLogits(backbone.norm.normalized_shape[0], self.modality.vocab_size)
        names = backbone.embedding.catalogue.names
        self.number = names.index(image)
        others = [name for name in names if name != image]
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
            return Context(tokens_of(given[:, None], number), None)
        if given.shape[1:] != (of.length, of.channels):
            raise UserError(
                f"text vectors have the shape {tuple(given.shape[1:])}, the model is made for {of.length} of "
                f"{of.channels} numbers; use the text encoder it was trained with."
            )
        return Context(vectors_of(given, number), None)

    def nothing(self, given: Tensor) -> Tensor:
        """The class or text that stands for none, in the shape of `given`."""
        return torch.full_like(given, BLANK) if not given.is_floating_point() else torch.zeros_like(given)

    def remember(self, tokens: TokenSet, split: Split, context: Context, memory: Memory | None = None) -> Memory:
        """The memory of the known tokens; of those known since, if there is a `memory` from before."""
        known = tokens.select(split.known, split.known_valid)
        if memory is None and context.tokens is not None:
            known = context.tokens.concat(known)
        return self.backbone.encode(known, context.condition, memory)

    def forward(
        self, tokens: TokenSet, split: Split, context: Context, memory: Memory | None = None
    ) -> tuple[Tensor, Memory | None]:
        """Logits `(B, A, V)` of the asked, and the memory if it can be reused.

        With a `memory`, `split.known` are the tokens that have become known since.
        """
        backbone = self.backbone
        tokens = tokens.blank(split.asked, split.asked_valid)
        if backbone.mode == "joint":
            first = context.tokens or tokens.select(split.known[:, :0])
            features = rows(backbone.decode(tokens, backbone.encode(first), context.condition), split.asked)
        else:
            memory = self.remember(tokens, split, context, memory)
            asked = tokens.select(split.asked, split.asked_valid)
            features = backbone.decode(asked, memory, context.condition)
        words = backbone.embedding.table(self.modality.name).detach()  # as published: learned as input alone
        return self.head(features, words), memory if self.reuses else None
