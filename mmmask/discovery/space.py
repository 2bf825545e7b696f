"""One space of all that samples hold: texts, pictures, given vectors, each part weighed, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mmmask.discovery.picture_features import PictureFeatures
from mmmask.discovery.rows import to_unit
from mmmask.discovery.text_features import TextFeatures
from mmmask.errors import UserError

Parts = dict[str, NDArray[np.float32]]  # name: rows (N, d) of length 1, or 0 where a sample lacks the part


@dataclass
class Samples:
    """What is known of N samples: texts ("" where there is none), histograms of pictures and given vectors by name,
    rows of zeros where there is none. `learned`: keys of those whose labels the vectors were made with."""

    keys: list[str]
    texts: list[str] = field(default_factory=list)
    pictures: dict[str, NDArray[np.float16]] = field(default_factory=dict)
    given: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    learned: frozenset[str] = frozenset()

    def check(self) -> None:
        """Refuse repeated keys and rows that are no numbers, by key."""
        seen: set[str] = set()
        for key in self.keys:
            if key in seen:
                raise UserError(f"two samples have the key '{key}': pack the data again, each key once.")
            seen.add(key)
        for name, rows in self.given.items():
            wrong = np.flatnonzero(~np.isfinite(rows).all(1))
            if len(wrong):
                raise UserError(
                    f"{name}: the features of {len(wrong)} samples are NaN or infinite, the first of them of "
                    f"'{self.keys[wrong[0]]}': compute them again, or leave these samples out."
                )


@dataclass
class Space:
    """How parts are made and how much each counts; `weights` add up to 1, `means` stand in for what a sample lacks."""

    text: TextFeatures | None = None
    pictures: dict[str, PictureFeatures] = field(default_factory=dict)
    given: dict[str, int] = field(default_factory=dict)  # numbers in a vector
    weights: dict[str, float] = field(default_factory=dict)
    means: Parts = field(default_factory=dict)

    @classmethod
    def fit(cls, samples: Samples, seed: int = 0) -> Space:
        """Learned from all samples, without labels; given vectors are taken as they are."""
        if samples.given:
            return cls(given={name: rows.shape[1] for name, rows in samples.given.items()})
        text = TextFeatures.fit(samples.texts, seed=seed) if any(samples.texts) else None
        text = text if text is not None and text.words else None
        pictures = {name: rows for name, rows in samples.pictures.items() if rows.any()}
        if text is None and not pictures:
            raise UserError(
                "there is nothing to tell samples apart by: no picture, and no word that two texts have in common."
            )
        return cls(text, {name: PictureFeatures.fit(rows, seed=seed) for name, rows in pictures.items()})

    @property
    def names(self) -> list[str]:
        """Of the parts."""
        return [*(["text"] if self.text else []), *self.pictures, *self.given]

    def parts(self, samples: Samples) -> Parts:
        """Each part of samples, all of them that this space knows."""
        count, found = len(samples.keys), {}
        if self.text is not None:
            found["text"] = self.text(samples.texts or [""] * count)
        for name, features in self.pictures.items():
            none = np.zeros((count, len(features.mean)), dtype=np.float16)
            found[name] = features(samples.pictures.get(name, none))
        for name, width in self.given.items():
            rows = samples.given.get(name)
            if rows is None or rows.shape[1] != width:
                has = "none" if rows is None else f"{rows.shape[1]} numbers each"
                raise UserError(f"{name}: these categories were found among vectors of {width} numbers, found {has}.")
            found[name] = to_unit(np.asarray(rows, dtype=np.float32))
        return found

    def weigh(self, weights: Mapping[str, float], parts: Parts) -> None:
        """Set how much each part counts, and what stands in for one that is absent: the mean of the others' rows."""
        self.weights = dict(weights)
        self.means = {name: present_mean(rows) for name, rows in parts.items()}

    def joined(self, parts: Parts) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Rows `(N, D)`, and which samples have nothing at all that counts `(N,)`."""
        used = {name: rows for name, rows in parts.items() if self.weights[name] > 0}
        nothing = np.logical_and.reduce([~rows.any(1) for rows in used.values()])
        return side_by_side(used, self.weights, self.means), nothing


def present_mean(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean `(d,)` of the rows that are not 0."""
    there = rows.any(1)
    return rows[there].mean(0) if there.any() else np.zeros(rows.shape[1], dtype=np.float32)


def side_by_side(parts: Parts, weights: Mapping[str, float], means: Parts) -> NDArray[np.float32]:
    """Rows `(N, D)`: squared distances are the weighed sums of those of the parts."""
    filled = [
        np.where(rows.any(1, keepdims=True), rows, means[name]) * np.float32(weights[name] ** 0.5)
        for name, rows in parts.items()
    ]
    return np.ascontiguousarray(np.concatenate(filled, axis=1))


def picked(samples: Samples, rows: Sequence[int] | NDArray[np.int64]) -> Samples:
    """These samples alone."""
    at = np.asarray(rows, dtype=np.int64)
    return Samples(
        [samples.keys[row] for row in at],
        [samples.texts[row] for row in at] if samples.texts else [],
        {name: some[at] for name, some in samples.pictures.items()},
        {name: some[at] for name, some in samples.given.items()},
    )
