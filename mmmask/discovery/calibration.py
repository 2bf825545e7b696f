"""How sure an assignment is, and below which confidence to abstain: measured on labelled samples held out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

HELD_OUT = 0.25  # of the labelled samples of a class; one at least stays
POINTS = 40  # of the curve
FOLDS, FEWEST = 5, 20  # of held-out samples, of which each is tested by a threshold of the others; if so many there are


@dataclass(frozen=True)
class Calibration:
    """Confidence is a softmax over -distance^2 / `temperature`; below `threshold` an assignment is not given.

    `coverage` and `accuracy` are of the held-out samples above each of `thresholds`, descending; `held_out` counts
    them. Without any, the threshold is 0 and nothing is known of accuracy. `tested` are coverage and accuracy of fifths
    of them, each above the threshold that was chosen on the others: what to expect of new samples. Features had
    `learned` the labels of so many of them, which then seem right too often.
    """

    temperature: float
    threshold: float
    held_out: int
    thresholds: tuple[float, ...] = ()
    coverage: tuple[float, ...] = ()
    accuracy: tuple[float, ...] = ()
    tested: tuple[float, float] | None = None
    learned: int = 0

    @property
    def reached(self) -> tuple[float, float]:
        """Coverage and accuracy of the held-out samples at the threshold; NaN where none were."""
        points = zip(self.thresholds, self.coverage, self.accuracy, strict=True)
        return next(((c, a) for t, c, a in reversed(list(points)) if t >= self.threshold), (float("nan"),) * 2)


def held_out(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Rows of labelled samples to be held out, of each class its share; classes of one sample keep it."""
    generator = np.random.default_rng([seed, 1])
    chosen = []
    for label in np.unique(labels[labels >= 0]):
        rows = generator.permutation(np.flatnonzero(labels == label))
        chosen.append(rows[: min(len(rows) - 1, max(1, round(HELD_OUT * len(rows))))])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, dtype=np.int64)


def confidences(squares: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Probabilities `(N, C)` of categories for squared distances `(N, C)`."""
    logits = -squares / temperature
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def calibrated(squares: NDArray[np.float64], true: NDArray[np.int64], wanted: float, seed: int = 0) -> Calibration:
    """From squared distances `(n, C)` of held-out samples and their true categories `(n,)`: the temperature of
    highest likelihood, and the lowest threshold above which at least the `wanted` share is right."""
    found = _chosen(squares, true, wanted)
    return replace(found, tested=_tested(squares, true, wanted, seed)) if len(true) >= FEWEST else found


def _chosen(squares: NDArray[np.float64], true: NDArray[np.int64], wanted: float) -> Calibration:
    scale = float(squares.mean())
    rows = np.arange(len(true))
    temperatures = scale * np.logspace(-3, 0.5, 60)
    losses = [-np.log(confidences(squares, t)[rows, true] + 1e-9).mean() for t in temperatures]
    temperature = float(temperatures[int(np.argmin(losses))])
    found = confidences(squares, temperature)
    top, right = found.max(1), squares.argmin(1) == true
    order = np.argsort(-top, kind="stable")
    accuracy = np.cumsum(right[order]) / (rows + 1)
    steps = np.flatnonzero(np.append(np.diff(top[order]) != 0, True))  # equal confidences stand or fall together
    good = steps[accuracy[steps] >= wanted]
    # where the wanted accuracy is never reached, what is as accurate as it gets
    last = good[-1] if len(good) else steps[int(accuracy[steps].argmax())]
    threshold = 0.0 if last == len(true) - 1 else float(top[order][last])
    shown = np.unique(
        np.append(steps[np.linspace(0, len(steps) - 1, min(POINTS, len(steps))).round().astype(int)], last)
    )
    return Calibration(
        temperature,
        threshold,
        len(true),
        tuple(top[order][shown].tolist()),
        tuple(((shown + 1) / len(true)).tolist()),
        tuple(accuracy[shown].tolist()),
    )


def _tested(
    squares: NDArray[np.float64], true: NDArray[np.int64], wanted: float, seed: int
) -> tuple[float, float] | None:
    order, kept, right = np.random.default_rng([seed, 2]).permutation(len(true)), 0, 0
    for part in np.array_split(order, FOLDS):
        others = np.setdiff1d(order, part)
        chosen = _chosen(squares[others], true[others], wanted)
        sure = confidences(squares[part], chosen.temperature).max(1) >= chosen.threshold
        kept += int(sure.sum())
        right += int((squares[part].argmin(1) == true[part])[sure].sum())
    return (kept / len(true), right / kept) if kept else None
