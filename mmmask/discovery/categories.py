"""What discovery leaves: categories with frozen centres, which further samples are assigned to."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mmmask.discovery.calibration import Calibration, confidences
from mmmask.discovery.space import Samples, Space

BLOCK = 8192


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
        parts = [self._nearest(rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK)]
        first, second, confidence, distance = (np.concatenate(part) for part in zip(*parts, strict=True))
        far = distance > self.far
        return Assigned(first, second, confidence, distance, far if nothing is None else far | nothing)

    def of_members(self, rows: NDArray[np.float32], members: NDArray[np.int64]) -> Assigned:
        """Rows `(N, D)` in the categories that they were found in, `(N,)`; labelled ones in those they were given."""
        squares = self.squares(rows)
        at = np.arange(len(squares)), members
        odds = confidences(squares, self.calibration.temperature)[at]
        others = squares.copy()
        others[at] = np.inf
        second = others.argmin(1) if squares.shape[1] > 1 else members
        return Assigned(members, second, odds, np.sqrt(squares[at]), np.zeros(len(squares), dtype=bool))

    def _nearest(self, rows: NDArray[np.float32]) -> tuple[NDArray[np.int64], ...]:
        squares = self.squares(rows)
        odds = confidences(squares, self.calibration.temperature)
        order = np.argsort(squares, axis=1, kind="stable")[:, :2]
        first, second = order[:, 0], order[:, -1]
        at = np.arange(len(rows))
        return first, second, odds[at, first], np.sqrt(squares[at, first])  # type: ignore[return-value]

    def squares(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
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
