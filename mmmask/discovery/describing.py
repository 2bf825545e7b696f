"""Sizes, words and examples of categories, from their members."""

from __future__ import annotations

import numpy as np

from mmmask.discovery.categories import Assigned, Discovery
from mmmask.discovery.naming import suggested_names
from mmmask.discovery.space import Samples

EXAMPLES, DOUBTFUL = 12, 6


def describe(discovery: Discovery, samples: Samples, assigned: Assigned) -> None:
    """Fill in what categories say of their members, the samples that are assigned to them."""
    members, confidence, distance = assigned.category, assigned.confidence, assigned.distance
    count = len(discovery.categories)
    words = suggested_names(samples.texts, members, count) if any(samples.texts) else [[] for _ in range(count)]
    for place, (category, own) in enumerate(zip(discovery.categories, words, strict=True)):
        inside = np.flatnonzero(members == place)
        near = inside[np.argsort(distance[inside], kind="stable")[:EXAMPLES]]
        unsure = inside[np.argsort(confidence[inside], kind="stable")[:DOUBTFUL]]
        category.words, category.size = own, len(inside)
        category.confidence = float(confidence[inside].mean()) if len(inside) else 0.0
        category.examples = [samples.keys[row] for row in near]
        category.doubtful = [samples.keys[row] for row in unsure if row not in set(near.tolist())]
