"""The words of all modalities side by side, and continuous tokens, which have none."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.modalities import Catalogue, Modality
from mmmask.tokens import BLANK, TokenSet, rows
from mmmask.transformer.stem import ConvStem


class Vocabularies(nn.Module):
    """What embeddings share: which modalities there are, where the words of each begin, projections of values.

    `more` words are added to each vocabulary, e.g. one for a blank token.
    """

    vocab: Tensor
    first_word: Tensor

    def __init__(self, modalities: Sequence[Modality], dim: int, more: int = 0, bias: bool = True) -> None:
        super().__init__()
        self.catalogue = Catalogue(modalities)
        sizes = [0 if m.vocab_size is None else m.vocab_size + more for m in modalities]
        self.starts = starts(sizes)
        self.register_buffer("vocab", torch.tensor([m.vocab_size or 0 for m in modalities]), persistent=False)
        self.register_buffer("first_word", torch.tensor(self.starts), persistent=False)
        self.words = nn.Embedding(sum(sizes), dim)
        self.project = nn.ModuleDict(
            {m.name: nn.Linear(m.channels, dim, bias or m.kind == "sequence") for m in modalities if m.channels}
        )

    def table(self, name: str) -> Tensor:
        """The words `(vocab_size, dim)` of one modality."""
        return self.part(self.words, name)

    def check(self, name: str, ids: Tensor) -> None:
        """Refuse ids that are no words of this modality (a blank is one). It waits for the device."""
        size = self.catalogue[name].vocab_size
        if size is None:
            raise UserError(f"modality {name} has continuous tokens, no ids.")
        wrong = ids[(ids >= size) | (ids < BLANK)]
        if len(wrong):
            raise UserError(
                f"token id {wrong[0].item()} of {name} lies outside the vocabulary 0..{size - 1} of this model; use "
                "the tokens of the tokenizer it was trained with, or set vocab_size to that of the tokenizer."
            )

    def part(self, words: nn.Embedding, name: str) -> Tensor:
        start, size = self.starts[self.catalogue.number(name)], self.catalogue[name].vocab_size
        return words.weight[start : start + (size or 0)]

    def row(self, tokens: TokenSet) -> Tensor:
        """The row `(B, N)` of the table for each token: any for those that are continuous."""
        assert tokens.ids is not None
        row = self.first_word[tokens.modality] + tokens.ids
        return row if tokens.values is None else torch.where(self.vocab[tokens.modality] > 0, row, 0)

    def with_values(self, x: Tensor, tokens: TokenSet) -> Tensor:
        """Features `(B, N, dim)` with those of continuous tokens in their places."""
        if tokens.values is None:
            return x
        assert tokens.ids is not None
        found = rows(tokens.values.to(x.dtype), tokens.ids.clamp(0, tokens.values.shape[1] - 1))
        for name, project in self.project.items():
            its = tokens.modality == self.catalogue.number(name)
            own = found[..., : self.catalogue[name].channels]
            seen = (
                project(own, tokens.position, its & tokens.is_valid())
                if isinstance(project, ConvStem)
                else project(own)
            )
            x = torch.where(its[..., None], seen.to(x.dtype), x)
        return x


def starts(sizes: Sequence[int]) -> list[int]:
    """Where each of these pieces begins if they lie side by side."""
    return [0, *accumulate(sizes)][:-1]
