"""The few data types that travel between rooms: tokens, which of them are known and asked, and the memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

BLANK = -1  # the id of a token whose content is not known; no codebook has it


@dataclass(frozen=True)
class Split:
    """Which tokens of each sample are known and which are asked: indices `(B, K)` and `(B, A)`.

    Rows are as long as the longest; where samples have fewer, `*_valid` is false, and the place is one that is not
    meant elsewhere in the row. None: all are valid.
    """

    known: Tensor
    asked: Tensor
    known_valid: Tensor | None = None
    asked_valid: Tensor | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> Split:
        """All tensors changed in the same way."""
        parts = (self.known, self.asked, self.known_valid, self.asked_valid)
        return Split(*(None if part is None else change(part) for part in parts))  # type: ignore[arg-type]


@dataclass(frozen=True)
class TokenSet:
    """Tokens of any modalities, one flat set per sample; all tensors are `(B, N)`.

    `ids` are words; of continuous tokens they are rows of `values` `(B, M, C)`. `valid` is None where no token is
    padding.
    """

    modality: Tensor
    position: Tensor
    ids: Tensor | None = None
    values: Tensor | None = None
    valid: Tensor | None = None

    def __len__(self) -> int:
        """The number of tokens of each sample."""
        return self.modality.shape[1]

    def select(self, index: Tensor, valid: Tensor | None = None) -> TokenSet:
        """The tokens `(B, n)` at these places; `valid` says which of them are meant."""
        if self.valid is not None:
            mine = self.valid.gather(1, index)
            valid = mine if valid is None else valid & mine
        return TokenSet(
            self.modality.gather(1, index),
            self.position.gather(1, index),
            None if self.ids is None else self.ids.gather(1, index),
            self.values,
            valid,
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> TokenSet:
        """All tensors changed in the same way."""
        parts = (self.modality, self.position, self.ids, self.values, self.valid)
        return TokenSet(*(None if part is None else change(part) for part in parts))  # type: ignore[arg-type]

    def in_parts(self, number: int) -> list[TokenSet]:
        """So many sets of equally many samples, which lie one below the other."""
        size = len(self.modality) // number
        return [self.map(lambda x, first=i * size: x[first : first + size]) for i in range(number)]  # type: ignore[misc]

    def blank(self, index: Tensor, valid: Tensor | None = None) -> TokenSet:
        """The same tokens, the ids at these places `(B, n)` taken away."""
        assert self.ids is not None
        kept = self.ids.gather(1, index)
        blanks = torch.full_like(kept, BLANK) if valid is None else torch.where(valid, BLANK, kept)
        return replace(self, ids=self.ids.scatter(1, index, blanks))

    def concat(self, other: TokenSet) -> TokenSet:
        """Both, side by side; with ids if both have them."""
        if self.values is not None and other.values is not None and self.values is not other.values:
            raise ValueError("continuous tokens of two sets lie in different rows: put their values together first")
        ids = None if self.ids is None or other.ids is None else torch.cat([self.ids, other.ids], 1)
        valid = None
        if self.valid is not None or other.valid is not None:
            valid = torch.cat([self.is_valid(), other.is_valid()], 1)
        return TokenSet(
            torch.cat([self.modality, other.modality], 1),
            torch.cat([self.position, other.position], 1),
            ids,
            self.values if other.values is None else other.values,
            valid,
        )

    def pad_to(self, n: int) -> TokenSet:
        """Made up to `n` tokens a sample, by copies of zero that are not valid."""
        if n <= len(self):
            return self
        more = (0, n - len(self))
        return TokenSet(
            F.pad(self.modality, more),
            F.pad(self.position, more),
            None if self.ids is None else F.pad(self.ids, more),
            self.values,
            F.pad(self.is_valid(), more),
        )

    @staticmethod
    def below(sets: Sequence[TokenSet]) -> TokenSet:
        """The samples of several sets, one below the other, all made as long as the longest."""
        longest = max(map(len, sets))
        sets = [some.pad_to(longest) for some in sets]

        def column(parts: list[Tensor | None]) -> Tensor | None:
            there = [part for part in parts if part is not None]
            return torch.cat(there) if len(there) == len(sets) else None

        valued = [some.values for some in sets if some.values is not None]
        values = [some.values for some in sets]
        if valued:  # rows that nothing points to
            like = valued[0]
            values = [like.new_zeros(len(s.modality), *like.shape[1:]) if s.values is None else s.values for s in sets]
        valid = None if all(some.valid is None for some in sets) else torch.cat([some.is_valid() for some in sets])
        modality, position = (torch.cat([getattr(some, name) for some in sets]) for name in ("modality", "position"))
        return TokenSet(modality, position, column([some.ids for some in sets]), column(values), valid)

    def is_valid(self) -> Tensor:
        return torch.ones_like(self.modality, dtype=torch.bool) if self.valid is None else self.valid


class Data(NamedTuple):
    """One modality of a batch: ids `(B, L)`, how many there are of each sample `(B,)`, 0 where it is absent.

    `chunks` `(B, L)` of a sequence are kept or left out as a whole. Of continuous tokens, ids are rows of `values`
    `(B, M, C)`.
    """

    ids: NDArray[np.int64]
    length: NDArray[np.int64]
    chunks: NDArray[np.int64] | None = None
    values: Tensor | None = None


@dataclass(frozen=True)
class Memory:
    """What `encode` returns and `decode` reads: features `(B, N, D)` of these tokens; `kept` are keys and values
    `(B, H, N, Dh)` of them for each block of a decoder, if it asks more than once."""

    features: Tensor
    tokens: TokenSet
    kept: Sequence[tuple[Tensor, Tensor]] | None = None


def tokens_of(ids: Tensor, modality: int = 0) -> TokenSet:
    """All tokens of one modality in order, from ids `(B, N)`."""
    position = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    return TokenSet(torch.full_like(ids, modality), position, ids)


def vectors_of(values: Tensor, modality: int = 0) -> TokenSet:
    """All continuous tokens of one modality in order, from values `(B, N, C)`."""
    position = torch.arange(values.shape[1], device=values.device).expand(values.shape[:2])
    return TokenSet(torch.full_like(position, modality), position, position, values)


def side_by_side(data: Mapping[str, Data]) -> tuple[dict[str, Data], Tensor | None]:
    """The same with the values of all continuous modalities in one tensor `(B, M, C)`, as wide as the widest."""
    valued = {name: some.values for name, some in data.items() if some.values is not None}
    if len(valued) < 2:
        return dict(data), next(iter(valued.values()), None)
    widest, found, filled = max(values.shape[2] for values in valued.values()), dict(data), 0
    for name, values in valued.items():
        found[name] = data[name]._replace(ids=data[name].ids + filled)
        filled += values.shape[1]
    return found, torch.cat([F.pad(values, (0, widest - values.shape[2])) for values in valued.values()], 1)


def rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows `(B, n, D)` of `(B, N, D)` at indices `(B, n)`."""
    first = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    return x.flatten(0, 1).index_select(0, (index + first).flatten()).view(*index.shape, x.shape[-1])
