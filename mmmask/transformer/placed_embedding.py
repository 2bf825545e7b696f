"""4M's embedding (Mizrahi et al. 2023): a word, a fixed place, and a vector of the modality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.modalities import Modality
from mmmask.tokens import BLANK, TokenSet
from mmmask.transformer.places import in_a_grid, in_a_line, in_a_picture
from mmmask.transformer.stem import ConvStem
from mmmask.transformer.vocabularies import Vocabularies, starts

LONGEST = 512  # sequence
Stem = Literal["linear", "conv"]
Places = Literal["index", "picture"]


class PlacedEmbedding(Vocabularies):
    """Known tokens and asked ones have words of their own; those of the asked are those of the answers too. An asked
    token without content is the same learned vector in all modalities, and known by its place alone.

    Places are fixed, but for vectors, whose numbers have no order in themselves: there they are learned.

    Args:
        modalities: in the order in which the model numbers them.
        dim: of the features.
        word_std: how large known words begin: 4M's 0.02 is little beside places of 0.7, and takes small data long to
            make up for.
        answer_std: how large the words of answers begin.
        stem: patches of pixels go through one layer, or through convolutions before it (conv).
        places: of tokens in a grid: by their number, as 4M's (index), or by where they lie in the picture, which grids
            of different sides have in common (picture).
    """

    first_place: Tensor
    fixed: Tensor
    moves: Tensor  # whether the places of a modality are learned

    def __init__(
        self,
        modalities: Sequence[Modality],
        dim: int,
        word_std: float = 0.02,
        answer_std: float = 0.02,
        stem: Stem = "linear",
        places: Places = "index",
    ) -> None:
        super().__init__(modalities, dim, bias=False)
        self.at, self.as_published = places, stem == "linear" and places == "index"
        if stem == "conv":
            self.project.update({m.name: ConvStem(m, dim) for m in modalities if m.patch})
        self.answers = nn.Embedding(self.words.num_embeddings, dim)
        self.unknown = nn.Parameter(torch.zeros(dim))
        self.kinds = nn.Parameter(torch.zeros(len(modalities), dim))
        learned = [m for m in modalities if m.kind == "vector"]
        self.learned, self.learned_asked = (nn.Embedding(sum(m.length for m in learned), dim) for _ in range(2))
        tables = {m.name: fixed_places(m, dim, places) for m in modalities if m.kind != "vector"}
        self.register_buffer("fixed", torch.cat([*tables.values(), torch.zeros(0, dim)]), persistent=False)
        first = dict(zip(tables, starts([len(table) for table in tables.values()]), strict=True))
        first |= dict(zip([m.name for m in learned], starts([m.length for m in learned]), strict=True))
        self.register_buffer("first_place", torch.tensor([first[m.name] for m in modalities]), persistent=False)
        self.register_buffer("moves", torch.tensor([m.kind == "vector" for m in modalities]), persistent=False)
        nn.init.normal_(self.words.weight, std=word_std)
        nn.init.normal_(self.answers.weight, std=answer_std)
        for table in (self.learned, self.learned_asked):
            nn.init.normal_(table.weight, std=0.02)
            table.weight.requires_grad_(bool(learned))  # no rows have no gradient, for which DDP would wait
        nn.init.normal_(self.unknown, std=0.02)
        nn.init.normal_(self.kinds, std=0.02)

    def forward(self, known: TokenSet) -> Tensor:
        """Features `(B, N, dim)` of known tokens."""
        places = self.places(known)
        words = torch.zeros_like(places)
        if self.words.num_embeddings:
            words = self.words(self.row(known).clamp(min=0))  # padding may be BLANK
        return self.with_values(words, known) + places

    def asked(self, asked: TokenSet) -> Tensor:
        """Features `(B, N, dim)` of asked tokens: BLANK ones, or in a causal sequence the word before."""
        assert asked.ids is not None
        blank = asked.ids == BLANK
        words = self.answers(self.first_word[asked.modality] + torch.where(blank, 0, asked.ids))
        return torch.where(blank[..., None], self.unknown, words) + self._places(asked, self.learned_asked)

    def places(self, known: TokenSet) -> Tensor:
        """What says where known tokens stand, and in which modality `(B, N, dim)`."""
        return self._places(known, self.learned)

    def _places(self, tokens: TokenSet, learned: nn.Embedding) -> Tensor:
        place = self.first_place[tokens.modality] + tokens.position
        kind = F.embedding(tokens.modality, self.kinds)  # indexing would sum gradients in an order of its own
        if not learned.num_embeddings:
            return self.fixed[place].to(kind.dtype) + kind
        moves = self.moves[tokens.modality]
        fixed = self.fixed[torch.where(moves, 0, place)].to(kind.dtype)
        return torch.where(moves[..., None], learned(torch.where(moves, place, 0)), fixed) + kind

    def answer_table(self, name: str) -> Tensor:
        """The words `(vocab_size, dim)` of the answers in one modality."""
        return self.part(self.answers, name)

    def answer_tables(self) -> tuple[Tensor, ...]:
        """Those of all modalities, with no rows for continuous ones."""
        return self.answers.weight.split([modality.vocab_size or 0 for modality in self.catalogue.modalities])


def fixed_places(modality: Modality, dim: int, places: Places = "index") -> Tensor:
    """What says where the tokens of a modality stand `(n, dim)`, but for vectors: by their number, as 4M's, or of grids
    by where they lie in the picture."""
    if modality.kind != "grid":
        return in_a_line(max(LONGEST, modality.length), dim)
    side = math.isqrt(modality.length)
    if side * side != modality.length:
        raise UserError(f"modality {modality.name}: a grid of {modality.length} tokens is not square.")
    return in_a_grid(side, side, dim) if places == "index" else in_a_picture(side, dim)
