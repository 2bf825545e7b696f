"""What a person changes about categories: merges, splits and new names, in a small YAML file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from mmmask.discovery.categories import Category, Discovery, new_name
from mmmask.discovery.kmeans import KMeans
from mmmask.errors import UserError, nearest

FORM = "expected `rename: {name: new name}`, `merge: [[name, name]]`, `split: {name: number}`"


@dataclass(frozen=True)
class Corrections:
    """By names of categories as they were: new names, lists that become one (under the name of their first), and into
    how many a category is split."""

    rename: dict[str, str]
    merge: list[list[str]]
    split: dict[str, int]

    @classmethod
    def read(cls, path: Path) -> Corrections:
        """A file of them, checked as far as it can be without categories."""
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            raise UserError(f"there is no file {path}.") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
        if not isinstance(content, dict):
            raise UserError(f"{path}: {FORM}.")
        for name in content:
            if name not in ("rename", "merge", "split"):
                raise UserError(f"{path}: there is no correction '{name}'.{nearest(str(name), cls.__annotations__)}")
        rename, merge, split = (content.get(name) or {} for name in ("rename", "merge", "split"))
        if not (isinstance(rename, dict) and isinstance(split, dict) and _lists(merge or [])):
            raise UserError(f"{path}: {FORM}.")
        wrong = [name for name, parts in split.items() if not isinstance(parts, int) or parts < 2]
        if wrong:
            raise UserError(f"{path}: split {wrong[0]} into a number of 2 or more, not {split[wrong[0]]!r}.")
        return cls(
            {str(old): str(new) for old, new in rename.items()},
            [[str(name) for name in names] for names in merge or []],
            {str(name): parts for name, parts in split.items()},
        )

    def check(self, names: Iterable[str], source: object) -> None:
        """Refuse names that there are not, and changes that contradict each other."""
        known = list(names)
        changed = [name for group in self.merge for name in group] + list(self.split)
        for name in (*changed, *self.rename):
            if name not in known:
                raise UserError(f"{source}: there is no category '{name}'.{nearest(name, known)}")
        for name in changed:
            if changed.count(name) > 1:
                raise UserError(f"{source}: '{name}' is merged or split twice: write it once.")
        gone = {name for group in self.merge for name in group[1:]}
        for name in self.rename:
            if name in gone:
                raise UserError(f"{source}: '{name}' is merged into another category: rename that one.")
        after = [self.rename.get(name, name) for name in known if name not in gone]
        for name in after:
            if after.count(name) > 1:
                raise UserError(f"{source}: two categories would be called '{name}': merge them instead.")
            if not name.strip():
                raise UserError(f"{source}: a category needs a name that is not empty.")


def corrected(
    discovery: Discovery,
    members: NDArray[np.int64],
    rows: NDArray[np.float32],
    labelled: NDArray[np.bool_],
    corrections: Corrections,
    source: object,
) -> NDArray[np.int64]:
    """Change `discovery` in place; the places of its members `(N,)` afterwards. What is not named stays as it is."""
    corrections.check([category.name for category in discovery.categories], source)
    members = members.copy()
    for name, parts in corrections.split.items():
        _split(discovery, members, rows, labelled, name, parts)
    places = discovery.by_name()
    target = np.arange(len(discovery.categories))
    for first, *others in corrections.merge:
        for other in others:
            target[places[other]] = places[first]
            known = discovery.categories[places[other]].known
            discovery.categories[places[first]].known |= known
    for name, new in corrections.rename.items():
        category = discovery.categories[places[name]]
        category.name, category.known = new, True
    kept = np.unique(target)
    target = np.searchsorted(kept, target)
    discovery.categories = [discovery.categories[place] for place in kept]
    discovery.owner = target[discovery.owner]
    return target[members]


def _split(
    discovery: Discovery,
    members: NDArray[np.int64],
    rows: NDArray[np.float32],
    labelled: NDArray[np.bool_],
    name: str,
    parts: int,
) -> None:
    """Cluster the members of a category anew; the part with most labelled samples, then most samples, keeps its id."""
    place = discovery.by_name()[name]
    inside = np.flatnonzero(members == place)
    distinct = len(np.unique(rows[inside], axis=0))
    if distinct < parts:
        raise UserError(f"'{name}' has {distinct} samples that differ: it cannot be split into {parts}.")
    clusters = KMeans(parts).fit(np.ascontiguousarray(rows[inside]))
    weight = np.bincount(clusters.labels, labelled[inside], parts) * len(rows) + np.bincount(clusters.labels)
    order = np.argsort(-weight, kind="stable")
    stay = discovery.owner != place
    gaps = ((rows[inside] - clusters.centres[clusters.labels]) ** 2).sum(1)
    radii = np.sqrt(np.bincount(clusters.labels, gaps, parts) / np.bincount(clusters.labels, minlength=parts))
    numbers = [place, *range(len(discovery.categories), len(discovery.categories) + parts - 1)]
    for _ in range(parts - 1):
        discovery.categories.append(Category(discovery.next_id, new_name(discovery.next_id), False))
        discovery.next_id += 1
    discovery.centres = np.concatenate([discovery.centres[stay], clusters.centres[order]])
    discovery.radii = np.concatenate([discovery.radii[stay], radii[order]])
    discovery.owner = np.concatenate([discovery.owner[stay], numbers])
    members[inside] = np.array(numbers)[np.argsort(order)[clusters.labels]]


def _lists(groups: Any) -> bool:
    return isinstance(groups, list) and all(isinstance(group, list) and len(group) > 1 for group in groups)
