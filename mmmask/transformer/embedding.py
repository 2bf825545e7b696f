"""Tokens to features: one table for the words of all modalities, one for their positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.modalities import Catalogue, Modality
from mmmask.tokens import BLANK, TokenSet


class TokenEmbedding(nn.Module):
    """Word plus learned position, then a layer norm with weights for each modality, then dropout.

    Vocabularies lie side by side in one table. Each has one word more, its last: that of a blank token. Continuous
    tokens are projected instead, without position and norm. `dropout` has a rate for the modalities it names.
    """

    vocab: Tensor
    first_word: Tensor
    first_position: Tensor
    dropout: Tensor

    def __init__(self, modalities: Sequence[Modality], dim: int, dropout: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.catalogue = Catalogue(modalities)
        vocab = [modality.vocab_size or -1 for modality in modalities]
        places = [modality.length if modality.vocab_size else 0 for modality in modalities]
        dropout = dropout or {}
        for name in dropout:
            self.catalogue.number(name)  # refuses one it does not have
        self.drops = any(dropout.values())
        self.starts = _starts([size + 1 for size in vocab])
        rates = [dropout.get(name, 0.0) for name in self.catalogue.names]
        self.register_buffer("dropout", torch.tensor(rates), persistent=False)
        self.register_buffer("vocab", torch.tensor(vocab), persistent=False)
        self.register_buffer("first_word", torch.tensor(self.starts), persistent=False)
        self.register_buffer("first_position", torch.tensor(_starts(places)), persistent=False)
        self.words = nn.Embedding(sum(size + 1 for size in vocab), dim)
        self.positions = nn.Embedding(sum(places), dim)
        self.norm_weight = nn.Parameter(torch.ones(len(vocab), dim))
        self.norm_bias = nn.Parameter(torch.zeros(len(vocab), dim))
        self.project = nn.ModuleDict({m.name: nn.Linear(m.channels, dim) for m in modalities if m.channels})

    def forward(self, tokens: TokenSet) -> Tensor:
        """Features `(B, N, dim)`; ids must be in range, see `check`."""
        if tokens.ids is None:
            return self._projected(tokens)
        word = torch.where(tokens.ids == BLANK, self.vocab[tokens.modality], tokens.ids)
        x = self.words(self.first_word[tokens.modality] + word)
        x = x + self.positions(self.first_position[tokens.modality] + tokens.position)
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        which = F.one_hot(tokens.modality, len(self.vocab)).to(x.dtype)
        x = torch.addcmul(which @ self.norm_bias, x, which @ self.norm_weight)
        if self.training and self.drops:
            keep = 1 - self.dropout[tokens.modality][..., None]
            x = x * (torch.rand_like(x) < keep) / keep
        return x

    def table(self, name: str) -> Tensor:
        """The words `(vocab_size, dim)` of one modality, without its blank."""
        number = self.catalogue.number(name)
        start, size = self.starts[number], self.catalogue[name].vocab_size
        return self.words.weight[start : start + (size or 0)]

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

    def _projected(self, tokens: TokenSet) -> Tensor:
        if tokens.values is None:
            raise UserError("tokens with ids and continuous ones cannot be embedded in one set yet; encode them apart.")
        (project,) = self.project.values()
        return project(tokens.values.to(self.words.weight.dtype))


def _starts(sizes: Sequence[int]) -> list[int]:
    """Where each of these pieces begins if they lie side by side."""
    return [0, *accumulate(sizes)][:-1]
