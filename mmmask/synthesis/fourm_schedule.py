"""4M's schedules (Mizrahi et al. 2023): how many tokens a step decodes, and how its temperature falls."""

from __future__ import annotations

from itertools import accumulate
from typing import Literal

import numpy as np

from mmmask.errors import UserError
from mmmask.synthesis.schedules import Schedule, Step


class FourMSchedule(Schedule):
    """For a modality of so many tokens. Decode few at the ends and many in the middle (`cosine`), or as many in each
    step (`linear`).

    Args:
        tokens: of the modality.
        steps: of decoding.
        shape: of the numbers of tokens.
        temperature: of the first step.
        decay: of the temperature: none, with the tokens left, or steeply, like 1 / x^`power`, to `least`.
        least: temperature at the end of the steep decay.
        power: of the steep decay.
        guidance: beyond the conditions; 4M's guidance scale less 1.
    """

    def __init__(
        self,
        tokens: int,
        steps: int,
        shape: Literal["cosine", "linear"] = "linear",
        temperature: float = 1.0,
        decay: Literal["constant", "linear", "steep"] = "constant",
        least: float = 0.5,
        power: float = 0.5,
        guidance: float = 0.0,
    ) -> None:
        if not 1 <= steps <= tokens:
            raise UserError(f"FourMSchedule: {steps} steps for {tokens} tokens; give from 1 to {tokens}.")
        if shape not in ("cosine", "linear") or decay not in ("constant", "linear", "steep"):
            raise UserError(
                f"FourMSchedule: shape is {shape}, decay {decay}; choose cosine or linear; constant, linear or steep."
            )
        if decay == "steep" and temperature < least:
            raise UserError(f"FourMSchedule: temperature {temperature} would rise to least; give {least} or more.")
        numbers = {"tokens": tokens, "steps": steps, "temperature": temperature, "least": least, "power": power}
        self.made_of = {**numbers, "shape": shape, "decay": decay, "guidance": guidance}
        done = np.array([*accumulate(_numbers(tokens, steps, shape))]) / tokens
        falling = {
            "constant": np.full(len(done), temperature),
            "linear": temperature * (1 - np.array([0.0, *done[:-1]])),
            "steep": least + (temperature - least) * (1 - done) * _steep(tokens, power)[: len(done)],
        }[decay]
        columns = zip(1 - done, falling, strict=True)
        super().__init__([Step(max(0.0, float(left)), float(t), 0.0, guidance) for left, t in columns])

    def counts(self, tokens: int) -> list[int]:
        """How many of so many tokens are masked before each step and after the last."""
        return [tokens, *(round(tokens * step.masked) for step in self.steps[:-1]), 0]


def _numbers(tokens: int, steps: int, shape: str) -> list[int]:
    """How many tokens each step decodes."""
    if shape == "linear":
        return sorted(np.diff(np.linspace(0, tokens, steps + 1, dtype=int)).tolist(), reverse=True)
    left = tokens * (1 + np.cos(np.pi * np.arange(steps + 1) / steps)) / 2
    numbers = np.diff(-left).round().astype(int).tolist()
    return [*numbers[:-1], tokens - sum(numbers[:-1])]


def _steep(tokens: int, power: float) -> np.ndarray:
    """1 / x^power from 1 to 100, scaled to 1 at the beginning and 0 at the end: for each of so many tokens, though
    the n-th step, as published, takes the n-th."""
    x = np.linspace(1, 100, tokens) ** -power
    return (x - x.min()) / max(float((x - x.min()).max()), 1e-12)
