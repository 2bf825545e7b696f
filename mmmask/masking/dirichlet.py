"""4M's masking: which tokens of any modalities are known, and which are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmmask.draws import Draws
from mmmask.errors import UserError, nearest
from mmmask.masking.budgets import Weights, budgets
from mmmask.masking.spans import Ids, spans
from mmmask.modalities import Modality
from mmmask.tokens import BLANK, Data, TokenSet, side_by_side

COMPONENT, KNOWN, ASKED, HOW_MANY, ORDER, SHARE, SPANS = range(7)  # what numbers are drawn for
Keep = Literal["random", "all", "none or all"]


@dataclass(frozen=True)
class Component:
    """One of the Dirichlet distributions of a mixture.

    Args:
        known: alpha of each modality that may be known, or one for all: small ones concentrate on few modalities.
        asked: the same of what is asked.
        weight: how often this one is drawn.
        keep: of a sequence, which share of its tokens is kept: random (the default), all, or none or all.
    """

    known: float | Mapping[str, float]
    asked: float | Mapping[str, float]
    weight: float = 1.0
    keep: Mapping[str, Keep] | None = None


class Question(NamedTuple):
    """What is known, what is asked, and the right words `(B, A)` of the answers."""

    known: TokenSet
    asked: TokenSet
    wanted: Tensor


class Piece(NamedTuple):
    """Tokens of one modality `(B, n)`, of which some are meant, at positions `(n,)`."""

    position: Ids
    ids: Ids
    wanted: Ids
    meant: NDArray[np.bool_]


class DirichletMask:
    """Draws, for each sample, how many tokens are `known` and `asked` (from, to), of which modalities by a component
    of the mixture, and which: at random in a grid, by spans in a sequence. Never more than there are; what is absent
    is neither known nor asked. A function of the sample's seed alone.

    Args:
        modalities: as the model numbers them.
        components: of the mixture.
        known: tokens, from and to.
        asked: tokens, from and to; the first sentinel of a sequence is one of them, though it is given.
        least: tokens that are known and asked at the least, of the modalities named here.
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        components: Sequence[Component],
        known: tuple[int, int] = (128, 128),
        asked: tuple[int, int] = (128, 128),
        least: Mapping[str, int] | None = None,
    ) -> None:
        if not len(components) or min(known[0], asked[0]) < 0 or known[0] > known[1] or asked[0] > asked[1]:
            raise UserError("DirichletMask: give a component, and known and asked as two numbers, from and to.")
        self.modalities, self.known, self.asked = list(modalities), known, asked
        names = [modality.name for modality in modalities]
        self.weights = np.cumsum([component.weight for component in components])
        self.alphas = [
            np.array([_by_name(getattr(component, side), names) for component in components])
            for side in ("known", "asked")
        ]
        decodable = np.array([modality.vocab_size is not None for modality in modalities])
        self.alphas[1] = self.alphas[1] * decodable
        self.keep = [np.array([(c.keep or {}).get(name, "random") for c in components]) for name in names]
        self.least = np.array(_by_name(least or {}, names), dtype=np.int64)
        for modality in modalities:
            first, last = modality.sentinels or (0, 0)
            if modality.kind == "sequence" and last - first < (needed := (modality.length + 1) // 2 + 1):
                raise UserError(
                    f"DirichletMask: {modality.name} has {last - first} sentinels for the spans that can be left out, "
                    f"and needs {needed} of its words for them: set sentinels to the first and beyond the last."
                )

    def __call__(self, data: Mapping[str, Data], seeds: NDArray[np.uint64]) -> Question:
        """Split a batch, of which each sample has a seed."""
        draws, (data, values) = Draws(seeds), side_by_side(data)
        which = np.searchsorted(self.weights, draws.uniform((COMPONENT,)) * self.weights[-1], side="right")
        there = np.stack([data[modality.name].length for modality in self.modalities], 1)
        how_many = draws.uniform((HOW_MANY,), 2)
        known = self._budget(KNOWN, self.known, how_many[:, 0], which, there, draws)
        is_grid = np.array([modality.kind != "sequence" for modality in self.modalities])
        left = np.where(is_grid, there - known, np.where(there > 0, 2 * there + 2, 0))  # an answer has sentinels too
        asked = self._budget(ASKED, self.asked, how_many[:, 1], which, left, draws)
        pieces: list[tuple[Piece, Piece]] = []
        for number, modality in enumerate(self.modalities):
            mine = data[modality.name], known[:, number], asked[:, number], draws
            spanned = modality.kind == "sequence"
            pieces.append(self._in_spans(number, which, *mine) if spanned else _at_random(number, *mine))
        known_set, _ = _side_by_side([piece[0] for piece in pieces], self.known[1], values)
        return Question(known_set, *_side_by_side([piece[1] for piece in pieces], self.asked[1], None))

    def _budget(self, use: int, ends: tuple[int, int], luck: Weights, which: Ids, most: Ids, draws: Draws) -> Ids:
        total = ends[0] + (luck * (ends[1] - ends[0] + 1)).astype(np.int64)
        alphas = self.alphas[use - KNOWN][which] * (most > 0)
        return budgets(total, alphas, self.least, most, draws, use)

    def _in_spans(
        self, number: int, which: Ids, data: Data, known: Ids, asked: Ids, draws: Draws
    ) -> tuple[Piece, Piece]:
        """What is known of a sequence, and the answer: each word but the first is asked, given those before it."""
        first, last = self.modalities[number].sentinels or (0, 0)
        share, keep = draws.uniform((SHARE, number)), self.keep[number][which]
        share = np.where(keep == "all", 1.0, np.where(keep == "none or all", share.round(), share))
        words, longest = np.arange(first, last), max(1, data.length.max())
        ids, chunks = data.ids[:, :longest], None if data.chunks is None else data.chunks[:, :longest]
        found = spans(ids, data.length, share, known, asked, words, draws, SPANS + number, chunks)
        rest, right = found.answer[:, :-1], found.answer[:, 1:]
        answer = _piece(rest, right, found.answer_length - 1)
        return _piece(found.known, found.known, found.known_length), answer


def _at_random(number: int, data: Data, known: Ids, asked: Ids, draws: Draws) -> tuple[Piece, Piece]:
    """The first of a random order are known, the next are asked."""
    here = np.arange(data.ids.shape[1]) < data.length[:, None]
    order = np.where(here, draws.uniform((ORDER, number), data.ids.shape[1]), 2.0).argsort(1)
    position, blank = np.arange(data.ids.shape[1]), np.full_like(data.ids, BLANK)
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, position[None], 1)
    first, last = known[:, None], (known + asked)[:, None]
    mine = Piece(position, data.ids, data.ids, rank < first)
    return mine, Piece(position, blank, data.ids, (rank >= first) & (rank < last))


def _piece(ids: Ids, wanted: Ids, length: Ids) -> Piece:
    position = np.arange(ids.shape[1])
    return Piece(position, ids, wanted, position < length[:, None])


def _side_by_side(pieces: Sequence[Piece], size: int, values: Tensor | None) -> tuple[TokenSet, Tensor]:
    """The tokens that are meant, `size` places for each sample; and the right words."""
    batch = len(pieces[0].meant)
    modality, position, ids, wanted = (np.zeros((batch, size), dtype=np.int64) for _ in range(4))
    filled = np.zeros(batch, dtype=np.int64)
    for number, piece in enumerate(pieces):
        row, column = np.nonzero(piece.meant)
        count = piece.meant.sum(1)
        first = np.repeat(filled - np.concatenate([[0], count.cumsum()[:-1]]), count)
        place = first + np.arange(len(row))
        modality[row, place], position[row, place] = number, piece.position[column]
        ids[row, place], wanted[row, place] = piece.ids[row, column], piece.wanted[row, column]
        filled += count
    valid = np.arange(size) < filled[:, None]
    of_modality, places, words = map(torch.from_numpy, (modality, position, ids))
    return TokenSet(of_modality, places, words, values, torch.from_numpy(valid)), torch.from_numpy(wanted)


def _by_name(given: float | Mapping[str, float], names: Sequence[str]) -> list[float]:
    """One number for each modality."""
    if not isinstance(given, Mapping):
        return [float(given)] * len(names)
    for name in given:
        if name not in names:
            raise UserError(
                f"DirichletMask: there is no modality '{name}', only {', '.join(names)}.{nearest(name, names)}"
            )
    return [float(given.get(name, 0.0)) for name in names]
