"""Tokens to features: a word, a position, and what belongs to the modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.modalities import Modality
from mmmask.tokens import BLANK, TokenSet
from mmmask.transformer.vocabularies import Vocabularies, starts


class TokenEmbedding(Vocabularies):
    """Word plus learned position, then a layer norm with weights for each modality, then dropout.

    Each vocabulary has one word more, its last: that of a blank token. Continuous tokens are projected instead,
    without position and norm. `dropout` has a rate for the modalities it names.
    """

    first_position: Tensor
    dropout: Tensor

    def __init__(self, modalities: Sequence[Modality], dim: int, dropout: Mapping[str, float] | None = None) -> None:
        super().__init__(modalities, dim, more=1)
        places = [modality.length if modality.vocab_size else 0 for modality in modalities]
        dropout = dropout or {}
        for name in dropout:
            self.catalogue.number(name)  # refuses one it does not have
        self.drops = any(dropout.values())
        rates = [dropout.get(name, 0.0) for name in self.catalogue.names]
        self.register_buffer("dropout", torch.tensor(rates), persistent=False)
        self.register_buffer("first_position", torch.tensor(starts(places)), persistent=False)
        self.positions = nn.Embedding(sum(places), dim)
        self.norm_weight = nn.Parameter(torch.ones(len(places), dim))
        self.norm_bias = nn.Parameter(torch.zeros(len(places), dim))

    def forward(self, tokens: TokenSet) -> Tensor:
        """Features `(B, N, dim)`; ids must be in range, see `check`."""
        assert tokens.ids is not None
        discrete = None if tokens.values is None else self.vocab[tokens.modality] > 0
        word = self.first_word[tokens.modality] + torch.where(
            tokens.ids == BLANK, self.vocab[tokens.modality], tokens.ids
        )
        place = self.first_position[tokens.modality] + tokens.position
        if discrete is not None:
            word, place = torch.where(discrete, word, 0), torch.where(discrete, place, 0)
        x = self.words(word) + self.positions(place)
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        which = F.one_hot(tokens.modality, len(self.vocab)).to(x.dtype)
        x = torch.addcmul(which @ self.norm_bias, x, which @ self.norm_weight)
        x = self.with_values(x, tokens)
        if self.training and self.drops:
            keep = 1 - self.dropout[tokens.modality][..., None]
            x = x * (torch.rand_like(x) < keep) / keep
        return x

    def asked(self, asked: TokenSet) -> Tensor:
        """The same of asked tokens, whose content is BLANK."""
        return self(asked)
