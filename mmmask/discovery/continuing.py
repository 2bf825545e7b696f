"""Categories that were found before keep their ids, names and merges when discovery is done again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from mmmask.discovery.categories import Category, Discovery, new_name
from mmmask.discovery.finding import Found
from mmmask.discovery.space import Samples


def keep_ids(found: Found, old: Discovery, samples: Samples) -> None:
    """Give what was `found` the ids of `old` categories.

    Categories of one name are the same. The other new centres, as means of their members in the old space, are
    matched with the old centres one to one (Hungarian); a pair farther apart than members were from the old centre is
    none. Two centres of one old category, which a person merged, stay one.
    """
    new = found.discovery
    same = _same_centres(found, old, samples)
    ids = {category.id: category for category in old.categories}
    names = {category.name: category.id for category in old.categories}
    taken: dict[int, int] = {}  # id: place in the new list
    categories: list[Category] = []
    place_of = np.zeros(len(new.categories), dtype=np.int64)
    number = old.next_id
    for place, category in enumerate(new.categories):
        known_as = names.get(category.name) if category.known else None
        before = known_as if known_as is not None else same.get(place)
        if before is None:
            before, number = number, number + 1
        if before in taken:
            place_of[place] = taken[before]
            continue
        if not category.known:
            was = ids.get(before)
            category.name, category.known = (was.name, was.known) if was else (new_name(before), False)
        category.id, taken[before], place_of[place] = before, len(categories), len(categories)
        categories.append(category)
    new.categories, new.next_id = categories, number
    new.owner, found.members = place_of[new.owner], place_of[found.members]


def _same_centres(found: Found, old: Discovery, samples: Samples) -> dict[int, int]:
    """The old id of each new category, by place, that has one by nearness."""
    new = found.discovery
    rows, _ = old.space.joined(old.space.parts(samples))
    by_name = {category.name for category in new.categories if category.known}
    free = np.array([place for place, category in enumerate(new.categories) if not category.known], dtype=np.int64)
    left = np.array(
        [centre for centre, owner in enumerate(old.owner) if old.categories[owner].name not in by_name], dtype=np.int64
    )
    if not len(free) or not len(left):
        return {}
    means = np.stack([_mean(rows[found.members == place]) for place in free])
    gaps = np.sqrt(((means[:, None] - old.centres[left][None]) ** 2).sum(-1))
    pairs = zip(*linear_sum_assignment(gaps), strict=True)
    return {
        int(free[a]): old.categories[old.owner[left[b]]].id for a, b in pairs if gaps[a, b] <= old.radii[left[b]] + 1e-6
    }


def _mean(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows.mean(0) if len(rows) else np.full(rows.shape[1], 1e6, dtype=np.float32)
