"""Sizes, words and examples of categories, from their members."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mmmask.discovery.calibration import confidences
from mmmask.discovery.categories import Discovery
from mmmask.discovery.naming import suggested_names
from mmmask.discovery.space import Samples

EXAMPLES, DOUBTFUL = 12, 6


def describe(
    discovery: Discovery, samples: Samples, rows: NDArray[np.float32], members: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Fill in what categories say of their members, whose places are `(N,)`; each sample's confidence `(N,)`."""
    count = len(discovery.categories)
    words = suggested_names(samples.texts, members, count) if any(samples.texts) else [[] for _ in range(count)]
    squares = discovery.squares(rows)
    at = np.arange(len(rows)), members
    confidence, distance = confidences(squares, discovery.calibration.temperature)[at], squares[at]
    for place, (category, own) in enumerate(zip(discovery.categories, words, strict=True)):
        inside = np.flatnonzero(members == place)
        near = inside[np.argsort(distance[inside], kind="stable")[:EXAMPLES]]
        unsure = inside[np.argsort(confidence[inside], kind="stable")[:DOUBTFUL]]
        category.words, category.size = own, len(inside)
        category.confidence = float(confidence[inside].mean()) if len(inside) else 0.0
        category.examples = [samples.keys[row] for row in near]
        category.doubtful = [samples.keys[row] for row in unsure if row not in set(near.tolist())]
    return confidence
