"""The trail of a search: every strategy that was judged and what it was worth, kept as it goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmmask.errors import UserError

Vector = np.ndarray


class Trail:
    """A file with a line for the settings and one for each strategy; those of an earlier process are recalled."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings, self.passed = path, settings, 0
        self.strategies: list[Vector] = []
        self.values: list[float] = []
        if path.exists():
            self._read(settings)

    @property
    def best(self) -> tuple[Vector, float]:
        """The best strategy so far, and its worth."""
        number = int(np.argmin(self.values[: self.passed]))
        return self.strategies[number], self.values[number]

    def recall(self, asked: Sequence[Vector]) -> list[float]:
        """What the first of these were worth, if they were judged before."""
        known = self.strategies[self.passed : self.passed + len(asked)]
        if not all(np.allclose(a, b, rtol=1e-9) for a, b in zip(known, asked, strict=False)):
            raise UserError(f"{self.path} was made by another version of the optimiser: begin in a new folder.")
        self.passed += len(known)
        return self.values[self.passed - len(known) : self.passed]

    def add(self, strategy: Vector, value: float) -> None:
        """Keep one that was judged now."""
        if not np.isfinite(value):
            raise UserError(f"the metric gave {value} for a strategy: it must give a number.")
        with open(self.path, "a") as stream:
            if not self.values:
                stream.write(json.dumps(self.settings) + "\n")
            stream.write(json.dumps({"value": value, "strategy": list(map(float, strategy))}) + "\n")
        self.strategies.append(np.asarray(strategy))
        self.values.append(value)
        self.passed += 1

    def _read(self, settings: dict[str, Any]) -> None:
        text = self.path.read_text()
        whole = text[: text.rfind("\n") + 1]  # a kill can cut the last line
        lines = [json.loads(line) for line in whole.splitlines()]
        before = lines[0] if lines else {}
        if other := [name for name in settings if before.get(name) != settings[name]]:
            raise UserError(
                f"{self.path.parent} holds a search with another {other[0]} ({before.get(other[0])}, now "
                f"{settings[other[0]]}): choose a new folder, or the settings it was begun with."
            )
        if len(lines) < 2:
            self.path.unlink()
        elif whole != text:
            self.path.write_text(whole)
        self.strategies = [np.array(line["strategy"]) for line in lines[1:]]
        self.values = [line["value"] for line in lines[1:]]


def plot(trail: Trail, path: Path) -> None:
    """What each strategy was worth, the best so far, and the best one's four lists beside those of the start."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from mmmask.synthesis.search import parted

    values = np.array(trail.values)
    figure, (left, *others) = pyplot.subplots(
        1, 5, figsize=(17, 3.4), layout="constrained", width_ratios=[2, 1, 1, 1, 1]
    )
    left.plot(values, ".", color="0.65", label="strategies")
    left.plot(np.minimum.accumulate(values), color="C0", label="best so far")
    if values.min() < np.quantile(values, 0.97):
        room = 0.05 * np.ptp(values)
        left.set_ylim(values.min() - room, np.quantile(values, 0.97) + room)
    left.set(xlabel="strategies judged", ylabel="worth, less is better")
    left.legend(frameon=False)
    start, best = parted(trail.strategies[0]), parted(trail.best[0])
    for axis, name in zip(others, start, strict=True):
        numbers = np.arange(1, len(start[name]) + 1)
        axis.plot(numbers, start[name], "o-", color="0.65", label="start")
        axis.plot(numbers, best[name], "o-", color="C0", label="best")
        axis.set(title=name, xlabel="step", xticks=numbers)
    others[0].legend(frameon=False)
    for axis in (left, *others):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
