"""Starts of k-means: several compete on a sample that all ranks hold, and the one of lowest inertia wins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmmask.discovery.breathing import breathe
from mmmask.discovery.lloyd import Lloyd, summed
from mmmask.discovery.ranks import Ranks
from mmmask.discovery.rows import Rows, to_unit
from mmmask.discovery.seeding import SEEDINGS, Sample
from mmmask.errors import UserError, nearest

if TYPE_CHECKING:
    from mmmask.discovery.kmeans import KMeans

MATCHING_PASSES = 25  # of the k-means without labels that a "matched" start is made of


def best_start(settings: KMeans, lloyd: Lloyd) -> tuple[str, NDArray[np.float32]]:
    """The seeding that won, and the centres `(K, D)` that it reaches on the sample."""
    names, ranks = _names(settings, lloyd.classes), lloyd.ranks
    chosen, pinned = _sample(settings, lloyd)
    total = int(ranks.sum(np.array(len(lloyd.rows))))
    alone = Ranks(alone=True)

    def on_sample(fixed: NDArray[np.int64]) -> Lloyd:
        part = Lloyd(Rows(chosen, block=settings.block), fixed, lloyd.search, alone, settings.spherical)
        part.whole = len(chosen) == total
        return part

    def cluster(centres: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        found = on_sample(np.full(len(pinned), -1)).run(centres, MATCHING_PASSES, settings.tolerance)
        return found.centres, found.labels

    sample, small = Sample(chosen, pinned, _class_means(lloyd), cluster), on_sample(pinned)
    small.classes = lloyd.classes  # the sample may lack the last ones
    starts = [(name, number) for name in names for number in range(settings.restarts)]
    reached = []
    for place in range(ranks.rank, len(starts), ranks.count):  # ranks share the starts
        name, number = starts[place]
        generator = np.random.default_rng([settings.seed, list(SEEDINGS).index(name), number])
        found = small.run(SEEDINGS[name](sample, settings.k, generator), settings.iterations, settings.tolerance)
        if settings.breathing:
            found = breathe(small, found, chosen, generator)
        reached.append((found.inertia, place, found.centres))
    _, place, centres = min((one for part in ranks.gather(reached) for one in part), key=lambda one: one[:2])
    return starts[place][0], centres


def _names(settings: KMeans, classes: int) -> list[str]:
    names = settings.seedings or (["means", "matched"] if classes else ["plain"])
    usable = list(SEEDINGS) if classes else ["plain"]
    for name in names:
        if name not in usable:
            why = "" if classes else " where nothing is labelled"
            raise UserError(f"seedings: {name!r} is none of {', '.join(usable)}{why}.{nearest(name, usable)}")
    return list(names)


def _sample(settings: KMeans, lloyd: Lloyd) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows `(n, D)` and the classes `(n,)` they are pinned to: the same, however many ranks hold the rows."""
    ranks, count = lloyd.ranks, len(lloyd.rows)
    size, places = settings.sample or max(50_000, 64 * settings.k), np.arange(count)
    unlabelled, total = (int(ranks.sum(np.array(number))) for number in (lloyd.free.sum(), count))
    if size < total:
        # drawn apart: where few rows are unlabelled, a draw from all could miss those that new clusters are made of
        wanted = min(unlabelled, max(size * unlabelled // total, size // 4, settings.k - lloyd.classes))
        generator = np.random.default_rng([settings.seed, len(SEEDINGS)])
        chosen = np.zeros(count, dtype=bool)
        for part, its_size in ((lloyd.free, wanted), (~lloyd.free, min(size - wanted, total - unlabelled))):
            sizes = np.array(ranks.gather(int(part.sum())))
            first = sizes[: ranks.rank].sum()
            drawn = generator.choice(sizes.sum(), max(its_size, 0), replace=False)
            own = drawn[(drawn >= first) & (drawn < first + part.sum())] - first
            chosen[np.flatnonzero(part)[own]] = True
        places = np.flatnonzero(chosen)
    parts = ranks.gather((lloyd.rows.take(places), lloyd.pinned[places]))
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([pinned for _, pinned in parts])


def _class_means(lloyd: Lloyd) -> NDArray[np.float32]:
    """(classes, D), over all labelled rows of all ranks."""
    sums = np.zeros((lloyd.classes, lloyd.rows.dim))
    for places, block in lloyd.rows.blocks(~lloyd.free):
        sums += summed(block, lloyd.pinned[places], lloyd.classes)
    counts = np.bincount(lloyd.pinned[~lloyd.free], minlength=lloyd.classes)
    means = (lloyd.ranks.sum(sums) / np.maximum(lloyd.ranks.sum(counts), 1)[:, None]).astype(np.float32)
    return to_unit(means) if lloyd.unit else means
