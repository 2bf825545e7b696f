"""How new samples differ from those that categories were found in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from mmmask.discovery.categories import Assigned, Discovery


def drift(discovery: Discovery, found: Assigned, kinds: list[str]) -> dict[str, Any]:
    """How the samples are spread over kinds and categories, against those of the discovery."""
    count = len(kinds)
    sizes = np.bincount(found.category, minlength=len(discovery.categories)) / count
    before = np.array([category.size for category in discovery.categories])
    before = before / before.sum()
    coverage, accuracy = discovery.calibration.reached
    most = np.argsort(-np.abs(sizes - before), kind="stable")[:5]
    return {
        "samples": count,
        "kinds": {kind: Counter(kinds)[kind] / count for kind in ("known", "new", "unsure", "far")},
        "far_expected": 0.01,
        "threshold": discovery.calibration.threshold,
        "held_out_coverage": None if np.isnan(coverage) else coverage,
        "held_out_accuracy": None if np.isnan(accuracy) else accuracy,
        "mean_distance": float(found.distance.mean()),
        "mean_distance_before": discovery.made_from.get("distance"),
        "sizes_moved": float(np.abs(sizes - before).sum() / 2),
        "changed_most": [
            {"category": discovery.categories[n].name, "before": float(before[n]), "now": float(sizes[n])} for n in most
        ],
    }


def drift_lines(found: dict[str, Any]) -> Iterator[str]:
    """The drift report in words."""
    kinds = found["kinds"]
    yield f"samples     {found['samples']:,}: " + ", ".join(f"{kind} {share:.1%}" for kind, share in kinds.items())
    if found["held_out_accuracy"] is None:
        yield "abstain     never: no labelled samples were held out when these categories were found"
    else:
        yield (
            f"abstain     below confidence {found['threshold']:.2f}, above which {found['held_out_accuracy']:.1%} of "
            f"the samples held out were right, {found['held_out_coverage']:.0%} of them"
        )
    yield f"far         {kinds['far']:.1%} are far from everything; of samples like those before, 1 % would be"
    if found["mean_distance_before"]:
        before = found["mean_distance_before"]
        yield f"distance    {found['mean_distance']:.3f} to the centre on average, {before:.3f} before"
    changes = ", ".join(f"{c['category']} {c['before']:.1%} -> {c['now']:.1%}" for c in found["changed_most"][:3])
    yield f"sizes       {found['sizes_moved']:.0%} of the samples would have to change category; most: {changes}"
