"""What discovery leaves: categories with frozen centres, which further samples are assigned to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mmmask.discovery.calibration import Calibration, confidences
from mmmask.discovery.space import Samples, Space

BLOCK = 2**20  # distances at a time, 8 MB


@dataclass
class Category:
    """One of them. Its `id` stays through later discoveries; `known`: samples of it were labelled, or it was named by a
    person; `words` set the texts of its members apart; keys of its most typical samples and of the least sure ones."""

    id: int
    name: str
    known: bool
    words: list[str] = field(default_factory=list)
    size: int = 0
    confidence: float = 0.0
    examples: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Assigned:
    """For each of N samples: its category and the second choice (places in the list of categories), the confidence,
    the distance to the centre, and whether it is far from all."""

    category: NDArray[np.int64]
    second: NDArray[np.int64]
    confidence: NDArray[np.float64]
    distance: NDArray[np.float64]
    far: NDArray[np.bool_]


@dataclass
class Discovery:
    """Categories, the centres `(M, D)` of each (one, or several where some were merged: `owner` `(M,)` says whose), how
    far members lie from a centre `(M,)`, and the distance beyond which a sample is far from everything."""

    categories: list[Category]
    space: Space
    centres: NDArray[np.float32]
    owner: NDArray[np.int64]
    radii: NDArray[np.float64]
    calibration: Calibration
    far: float
    next_id: int
    made_from: dict[str, object] = field(default_factory=dict)  # data, labels, seed, what was estimated

    def assign(self, samples: Samples) -> Assigned:
        """The nearest categories of samples; centres stay."""
        rows, nothing = self.space.joined(self.space.parts(samples))
        return self.nearest(rows, nothing)

    def nearest(self, rows: NDArray[np.float32], nothing: NDArray[np.bool_] | None = None) -> Assigned:
        """The same, of rows `(N, D)`; those with `nothing` in them are far from everything."""
        parts = [self._nearest(rows[part]) for part in self._blocks(len(rows))]
        first, second, confidence, distance = (np.concatenate(part) for part in zip(*parts, strict=True))
        far = distance > self.far
        return Assigned(first, second, confidence, distance, far if nothing is None else far | nothing)

    def of_members(self, rows: NDArray[np.float32], members: NDArray[np.int64]) -> Assigned:
        """Rows `(N, D)` in the categories that they were found in, `(N,)`; labelled ones in those they were given."""
        parts = [self._of_members(rows[part], members[part]) for part in self._blocks(len(rows))]
        second, confidence, distance = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Assigned(members, second, confidence, distance, np.zeros(len(rows), dtype=bool))

    def _blocks(self, count: int) -> Iterator[slice]:
        """Of rows, so that distances to all categories never exist at once."""
        size = max(1, BLOCK // len(self.categories))
        return (slice(start, start + size) for start in range(0, count, size))

    def _of_members(self, rows: NDArray[np.float32], members: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
        squares = self._squares(rows)
        at = np.arange(len(squares)), members
        odds, distance = confidences(squares, self.calibration.temperature)[at], np.sqrt(squares[at])
        squares[at] = np.inf
        second = squares.argmin(1) if squares.shape[1] > 1 else members
        return second, odds, distance  # type: ignore[return-value]

    def _nearest(self, rows: NDArray[np.float32]) -> tuple[NDArray[np.int64], ...]:
        squares = self._squares(rows)
        odds = confidences(squares, self.calibration.temperature)
        order = np.argsort(squares, axis=1, kind="stable")
        first, second = order[:, 0].copy(), order[:, :2][:, -1].copy()  # a view would keep the whole order
        at = np.arange(len(rows))
        return first, second, odds[at, first], np.sqrt(squares[at, first])

    def _squares(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """Squared distances `(N, C)` to the nearest centre of each category."""
        return category_squares(rows, self.centres, self.owner, len(self.categories))

    def by_name(self) -> dict[str, int]:
        """Place in the list of each name."""
        return {category.name: place for place, category in enumerate(self.categories)}


def category_squares(
    rows: NDArray[np.float32], centres: NDArray[np.float32], owner: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """Squared distances `(N, count)` of rows `(N, D)` to the nearest centre `(M, D)` that each category owns."""
    wide, other = rows.astype(np.float64), centres.astype(np.float64)
    squares = np.maximum((wide**2).sum(1)[:, None] + (other**2).sum(1) - 2 * wide @ other.T, 0)
    found = np.full((len(rows), count), np.inf)
    for centre, category in enumerate(owner.tolist()):
        np.minimum(found[:, category], squares[:, centre], out=found[:, category])
    return found


def new_name(number: int) -> str:
    """What a new category is called until a person names it."""
    return f"new-{number:02d}"
