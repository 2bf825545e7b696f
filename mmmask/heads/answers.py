"""Which words the answers are, in each modality: features compared with its words (4M's heads)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmmask.tokens import TokenSet
from mmmask.transformer.linear import linear
from mmmask.transformer.placed_embedding import PlacedEmbedding


class Errors(NamedTuple):
    """Of the answers in one modality: the sum of their cross entropies, and how many there are."""

    total: Tensor
    number: int


def logits(embedding: PlacedEmbedding, name: str, features: Tensor) -> Tensor:
    """`(..., dim)` to `(..., vocab_size)`."""
    return linear(features, embedding.answer_table(name))


def errors(embedding: PlacedEmbedding, asked: TokenSet, features: Tensor, wanted: Tensor) -> dict[str, Errors]:
    """Of the features `(B, N, dim)` of asked tokens, whose words should be `wanted` `(B, N)`, by modality.

    Tokens are sorted by modality, which waits for the device once; the gradient of all words is made in one piece.
    """
    modalities = embedding.catalogue.modalities
    kind = torch.where(asked.is_valid(), asked.modality, len(modalities)).flatten()
    counts = kind.bincount(minlength=len(modalities) + 1).tolist()
    order = kind.argsort(stable=True)
    sorted_features = features.flatten(0, 1).index_select(0, order).split(counts)
    sorted_words, tables = wanted.flatten()[order].split(counts), embedding.answer_tables()
    found = {}
    for number, modality in enumerate(modalities):
        if modality.vocab_size:
            total = sorted_features[number].float().sum()  # of nothing, if nothing is asked
            if counts[number]:
                answers = F.linear(sorted_features[number], tables[number]).float()
                total = F.cross_entropy(answers, sorted_words[number], reduction="sum")
            found[modality.name] = Errors(total, counts[number])
    return found


def by_modality(found: dict[str, Errors]) -> Tensor:
    """The mean over modalities of their means; one without answers counts as 0."""
    return torch.stack([part.total / max(1, part.number) for part in found.values()]).mean()
