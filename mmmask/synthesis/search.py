"""Search of a decoding strategy (AutoNAT, Ni et al. 2024): which 4 S - 2 numbers give the best images in S steps.

An optimiser proposes strategies and is told what they are worth, less being better. It is a function of its settings
and of what it was told: whoever repeats that brings it to where it was.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from mmmask.errors import UserError

Vector = np.ndarray  # (4 S - 2,) in float64: ratios, remasks, temperatures, guidances of an AutoNATSchedule
LEAST = 1e-4  # of what is not a ratio
MOST_MASKED = 0.99


def beginning(steps: int) -> Vector:
    """Where the search starts: the cosine, noise that falls, guidance that grows."""
    if steps < 2:
        raise UserError(f"search: {steps} step leaves nothing to search for; give 2 or more.")
    done = np.arange(1, steps + 1) / steps
    return np.concatenate([np.cos(np.pi / 2 * done[:-1]), 1 - done[:-1] + 1 / steps, np.ones(steps), done])


def parted(strategy: Vector) -> dict[str, list[float]]:
    """The four lists of an `AutoNATSchedule`."""
    steps = (len(strategy) + 2) // 4
    if len(strategy) != 4 * steps - 2:
        raise UserError(f"search: {len(strategy)} numbers make no strategy; S steps have 4 S - 2.")
    ends = np.cumsum([steps - 1, steps - 1, steps])
    names = ("ratios", "remasks", "temperatures", "guidances")
    return {name: part.tolist() for name, part in zip(names, np.split(strategy, ends), strict=True)}


def is_ratio(strategy: Vector) -> np.ndarray:
    """Which of the numbers are ratios."""
    return np.arange(len(strategy)) < (len(strategy) + 2) // 4 - 1


def allowed(strategy: Vector) -> Vector:
    """The nearest strategy that can be decoded with."""
    return np.where(is_ratio(strategy), strategy.clip(0, MOST_MASKED), strategy.clip(LEAST))


class Optimiser(ABC):
    """Asks for the worth of strategies, and learns from it."""

    @abstractmethod
    def start(self, strategy: Vector, seed: int) -> None:
        """Begin here."""

    @abstractmethod
    def ask(self) -> list[Vector]:
        """Strategies to be judged; all of them can be judged at the same time."""

    @abstractmethod
    def tell(self, values: Sequence[float]) -> None:
        """What those that were asked for are worth, less being better."""


class FiniteDifferences(Optimiser):
    """AutoNAT's own: the gradient from one small change of each number, and descent with momentum.

    Args:
        lr: step size of ratios.
        other_lr: step size of all other numbers.
        change: by which a ratio is changed to see what it does.
        other_change: the same for all other numbers.
        momentum: of the descent.
        clip: largest entry of the gradient.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        other_lr: float = 0.1,
        change: float = 0.01,
        other_change: float = 0.1,
        momentum: float = 0.5,
        clip: float | None = None,
    ) -> None:
        if change <= 0 or other_change <= 0:
            raise UserError("FiniteDifferences: what numbers are changed by must be above 0.")
        self.lr, self.other_lr, self.change, self.other_change = lr, other_lr, change, other_change
        self.momentum, self.clip = momentum, clip

    def start(self, strategy: Vector, seed: int) -> None:
        self.strategy, self.velocity = strategy.astype(np.float64), np.zeros(len(strategy))
        self.gradient = np.zeros(len(strategy))

    def ask(self) -> list[Vector]:
        """The strategy as it stands, and with each of its numbers changed."""
        return [self.strategy, *self._changed()]

    def tell(self, values: Sequence[float]) -> None:
        base, *others = values
        changes = np.diag(np.stack(self._changed()) - self.strategy)
        self.gradient = (np.array(others) - base) / changes
        if self.clip is not None:
            self.gradient = self.gradient.clip(-self.clip, self.clip)
        self.velocity = self.momentum * self.velocity + self.gradient
        rate = np.where(is_ratio(self.strategy), self.lr, self.other_lr)
        self.strategy = allowed(self.strategy - rate * self.velocity)

    def _changed(self) -> list[Vector]:
        by = np.where(is_ratio(self.strategy), self.change, self.other_change)
        moved = np.where(is_ratio(self.strategy), (self.strategy + by).clip(0, 1), (self.strategy + by).clip(LEAST))
        return [np.where(np.arange(len(by)) == i, moved, self.strategy) for i in range(len(by))]


class CMAES(Optimiser):
    """Evolution with an adapted covariance (Hansen), by the `cma` package: learns from far noisier values.

    Args:
        spread: of the first generation: of all numbers but ratios.
        ratio_spread: of the first generation: of ratios.
        population: strategies of a generation (default: by their length).
    """

    def __init__(self, spread: float = 0.4, ratio_spread: float = 0.08, population: int | None = None) -> None:
        if min(spread, ratio_spread) <= 0 or (population is not None and population < 2):
            raise UserError("CMAES: spreads must be above 0, a population 2 or more.")
        self.spread, self.ratio_spread, self.population = spread, ratio_spread, population

    def start(self, strategy: Vector, seed: int) -> None:
        try:
            import cma
        except ImportError as error:
            raise UserError("CMAES needs the package cma: pip install 'mmmask[search]'.") from error
        ratio = is_ratio(strategy)
        options = {
            "seed": np.nan,  # leave numpy's own generator alone
            "CMA_stds": np.where(ratio, self.ratio_spread, self.spread).tolist(),
            "bounds": [np.where(ratio, 0, LEAST).tolist(), np.where(ratio, MOST_MASKED, np.inf).tolist()],
            "popsize": self.population or 4 + math.floor(3 * math.log(len(strategy))),
            "randn": np.random.RandomState(seed).randn,  # no generator that others use too
            "verbose": -9,
        }
        self.evolution = cma.CMAEvolutionStrategy(allowed(strategy).tolist(), 1.0, options)

    def ask(self) -> list[Vector]:
        self.asked = self.evolution.ask()
        return [allowed(np.asarray(strategy)) for strategy in self.asked]

    def tell(self, values: Sequence[float]) -> None:
        self.evolution.tell(self.asked, list(values))
