"""From samples of which few are labelled to categories: `find(samples, labels, names, wanted)`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmmask.discovery.calibration import Calibration, calibrated, held_out
from mmmask.discovery.categories import Category, Discovery, category_squares, new_name
from mmmask.discovery.class_count import ClassCount, Curve
from mmmask.discovery.kmeans import UNLABELLED, KMeans
from mmmask.discovery.space import Samples, Space
from mmmask.discovery.trust import some_rows, trusted
from mmmask.errors import UserError

COUNTED_ROWS = 10_000  # rows on which numbers of classes are compared
FAR = 0.99  # of the unlabelled samples lie nearer to a centre than what is far from everything


@dataclass(frozen=True)
class Wanted:
    """How many classes (a number, a range, or none: as many as the labels speak for), how often an assignment that is
    not abstained from should be right, and the seed."""

    classes: int | tuple[int, int] | None = None
    accuracy: float = 0.9
    seed: int = 0


@dataclass
class Found:
    """Categories, the rows `(N, D)` of the samples, the place of each one's category `(N,)`, and what the page draws:
    the curves of numbers of classes and of trust in parts, the confusion of the samples held out."""

    discovery: Discovery
    rows: NDArray[np.float32]
    members: NDArray[np.int64]
    curves: dict[str, Any] = field(default_factory=dict)


def find(samples: Samples, labels: NDArray[np.int64], names: list[str], wanted: Wanted, space: Space) -> Found:
    """`labels` `(N,)` are places in `names`, -1 where there is none; the `space` of the samples is weighed here.

    What categories say of their members is filled in by `describe`, once these are final.
    """
    known = check_labels(samples, labels, names, wanted)
    parts = space.parts(samples)
    guess = wanted.classes if isinstance(wanted.classes, int) else 2 * known
    weights, tried = trusted(parts, labels, guess, wanted.seed)
    space.weigh(weights, parts)
    rows, nothing = space.joined(parts)
    distinct = len(np.unique(np.round(rows[labels == UNLABELLED], 4), axis=0))
    k, curve = _number(rows, labels, known, distinct, wanted)
    learned = np.array([key in samples.learned for key in samples.keys])
    calibration, confusion = _calibrated(rows, labels, learned, known, k, wanted)
    clusters = KMeans(k, seed=wanted.seed).fit(rows, labels)
    categories = [Category(n, names[n], True) if n < known else Category(n, new_name(n), False) for n in range(k)]
    discovery = Discovery(categories, space, clusters.centres, np.arange(k), np.zeros(k), calibration, np.inf, k)
    distances = np.sqrt(((rows - clusters.centres[clusters.labels]) ** 2).sum(1))
    free = (labels == UNLABELLED) & ~nothing
    discovery.far = float(np.quantile(distances[free], FAR)) if free.any() else float(distances.max())
    discovery.radii = np.sqrt(np.bincount(clusters.labels, distances**2, k) / np.bincount(clusters.labels, minlength=k))
    curves = {"trust": [asdict(one) for one in tried], "confusion": confusion, "nothing": int(nothing.sum())}
    return Found(discovery, rows, clusters.labels, curves | {"classes": _drawn(curve), "known": known})


def check_labels(samples: Samples, labels: NDArray[np.int64], names: list[str], wanted: Wanted) -> int:
    """Refuse what cannot be discovered in; the number of labelled classes."""
    samples.check()
    known = len(names)
    if not known:
        raise UserError("no sample is labelled: label some samples of the categories that you know.")
    if (labels != UNLABELLED).all():
        raise UserError("all samples are labelled: nothing is left to discover. Add samples without a label.")
    most = wanted.classes if isinstance(wanted.classes, int) else wanted.classes[1] if wanted.classes else known
    if most < known:
        raise UserError(f"--classes is {most}, but {known} categories are labelled: give {known} or more.")
    free = int((labels == UNLABELLED).sum())
    if isinstance(wanted.classes, int) and wanted.classes > known + free:
        raise UserError(
            f"--classes is {wanted.classes}, but there are {known} labelled categories and {free} unlabelled samples: "
            "give fewer."
        )
    return known


def _number(
    rows: NDArray[np.float32], labels: NDArray[np.int64], known: int, distinct: int, wanted: Wanted
) -> tuple[int, Curve | None]:
    """How many classes, and the curve that this was taken from; `distinct`: unlabelled rows that differ."""
    if isinstance(wanted.classes, int):
        return wanted.classes, None
    low, high = wanted.classes or (known, 4 * known + 10)
    some = some_rows(labels, COUNTED_ROWS, wanted.seed)
    high = min(max(low, known, high), known + distinct, len(np.unique(np.round(rows[some], 4), axis=0)))
    low = min(max(low, known), high)
    counted = ClassCount(rows[some], labels[some], method=KMeans(1, breathing=False, seed=wanted.seed))
    curve = counted.search(low, high)
    return curve.best, curve


def _calibrated(
    rows: NDArray[np.float32],
    labels: NDArray[np.int64],
    learned: NDArray[np.bool_],
    known: int,
    k: int,
    wanted: Wanted,
) -> tuple[Calibration, list[list[int]]]:
    """Clusters without some of the labels, judged on these: how sure is how often right; and who is taken for whom, as
    [known category, category, samples]."""
    held = held_out(labels, wanted.seed)
    if not len(held):  # one sample per class
        return Calibration(1.0, 0.0, 0), []
    fewer = labels.copy()
    fewer[held] = UNLABELLED
    clusters = KMeans(k, seed=wanted.seed).fit(rows, fewer)
    squares = category_squares(rows[held], clusters.centres, np.arange(k), k)
    pairs, counts = np.unique(np.stack([labels[held], squares.argmin(1)]), axis=1, return_counts=True)
    confusion = [[int(a), int(b) if b < known else -1, int(n)] for (a, b), n in zip(pairs.T, counts, strict=True)]
    found = calibrated(squares, labels[held], wanted.accuracy, wanted.seed)
    return replace(found, learned=int(learned[held].sum())), confusion


def _drawn(curve: Curve | None) -> dict[str, Any] | None:
    """What the page shows: means and standard deviations over seeds, and where each is highest."""
    if curve is None:
        return None

    def told(values: NDArray[np.float64]) -> list[float]:
        return [float(values.mean()), float(values.std())]

    points = [
        {
            "k": one.k,
            "accuracy": told(one.accuracy),
            "silhouette": told(one.silhouette),
            "stability": told(one.stability),
        }
        for one in curve.counts
    ]
    merged = [[k, *told(accuracy)] for k, accuracy in curve.merged.items()]
    return {
        "best": curve.best,
        "range": list(curve.range),
        "peaks": curve.peaks,
        "points": points,
        "merged": merged,
    }
