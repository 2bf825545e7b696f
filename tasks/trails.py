"""The trail of a search: every strategy that was judged and what it was worth, kept as it goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmmask.errors import UserError
from mmmask.files import written_whole
from mmmask.synthesis.search import Vector


class Trail:
    """A file with a line for the settings and one for each strategy; those of an earlier process are recalled."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings, self.passed = path, json.loads(json.dumps(settings, default=str)), 0
        self.strategies: list[Vector] = []
        self.values: list[float] = []
        if path.exists():
            self._read(self.settings)

    @property
    def best(self) -> tuple[Vector, float]:
        """The best of all strategies that are kept, and its worth."""
        number = int(np.argmin(self.values))
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
        if whole.count("\n") < 2:  # nothing was judged yet
            self.path.unlink()
            return
        lines = [self._parsed(number, line) for number, line in enumerate(whole.splitlines(), 1)]
        before = lines[0]
        if other := [name for name in settings if before.get(name) != settings[name]]:
            raise UserError(
                f"{self.path.parent} holds a search with another {other[0]} ({before.get(other[0])}, now "
                f"{settings[other[0]]}): choose a new folder, or the settings it was begun with."
            )
        if whole != text:
            with written_whole(self.path) as stream:
                stream.write(whole.encode())
        self.strategies = [np.array(line["strategy"]) for line in lines[1:]]
        self.values = [line["value"] for line in lines[1:]]

    def _parsed(self, number: int, line: str) -> dict[str, Any]:
        try:
            return json.loads(line)
        except ValueError as error:
            raise UserError(
                f"line {number} of {self.path} is damaged: delete it and all that follows, and search again."
            ) from error
