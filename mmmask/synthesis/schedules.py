"""Schedules as data: for each decoding step, how much stays masked, the temperatures, the guidance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mmmask.errors import UserError


@dataclass(frozen=True)
class Step:
    """One decoding step: the share of tokens `masked` after it; how freely words are drawn (`temperature`) and kept
    (`remask`, the weight of noise in the confidences); `guidance` w in `c + w (c - u)`, 0 for none."""

    masked: float
    temperature: float = 1.0
    remask: float = 0.0
    guidance: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """Steps from all masked to none. With `each_reveals`, every step reveals one token at least (AutoNAT)."""

    steps: tuple[Step, ...]
    each_reveals: bool = False

    def __post_init__(self) -> None:
        shares = [step.masked for step in self.steps]
        if not shares or shares[-1] > 1e-9:
            raise UserError(
                f"schedule: {shares[-1] if shares else 1:.0%} of the tokens are still masked after the last step; "
                "its 'masked' must be 0."
            )
        if any(share < 0 or share > 1 for share in shares):
            raise UserError(f"schedule: 'masked' is a share from 0 to 1; given: {shares}.")
        if shares != sorted(shares, reverse=True) and not self.each_reveals:
            raise UserError(f"schedule: 'masked' must not grow from step to step; given: {shares}.")
        if any(step.temperature < 0 or step.remask < 0 for step in self.steps):
            raise UserError("schedule: temperatures must be 0 or more.")

    def __len__(self) -> int:
        return len(self.steps)

    def counts(self, tokens: int) -> list[int]:
        """How many of so many tokens are masked before each step and after the last."""
        counts = [tokens]
        for number, step in enumerate(self.steps[:-1], 1):
            masked = math.floor(tokens * step.masked)
            if self.each_reveals:
                masked = max(len(self) - number, min(counts[-1] - 1, masked), 0)
            counts.append(min(masked, counts[-1]))
        return [*counts, 0]


def linear(scale: float) -> Callable[[float], float]:
    """Guidance that grows with the share of steps done, this one among them."""
    return lambda done: scale * done


def constant(scale: float) -> Callable[[float], float]:
    """The same guidance at each step."""
    return lambda done: scale


def cosine(
    steps: int = 8,
    temperature: float = 1.0,
    remask: float = 4.5,
    guidance: Callable[[float], float] | float = 0.0,
) -> Schedule:
    """MaskGIT (Chang et al. 2022): masked by the cosine, words drawn plainly, noise of confidences falling to 0."""
    scale = guidance if callable(guidance) else constant(guidance)
    done = [(s + 1) / steps for s in range(_checked(steps))]
    return Schedule(tuple(Step(_cosine(r), temperature, remask * (1 - r), scale(r)) for r in done), each_reveals=True)


def enat(steps: int = 8, temperature: float = 6.0, remask: float = 1.5, guidance: float = 2.5) -> Schedule:
    """ENAT (Ni et al. 2024), its setting for 256 pixels; for 512: temperature 4, guidance 3.5.

    Both temperatures fall to 0, guidance grows and lags one step behind.
    """
    left = [1 - (s + 1) / steps for s in range(_checked(steps))]
    return Schedule(
        tuple(
            Step(_cosine(1 - share), max(temperature * share, 1e-3), remask * share, guidance * s / steps)
            for s, share in enumerate(left)
        )
    )


def autonat(
    ratios: Sequence[float], remasks: Sequence[float], temperatures: Sequence[float], guidances: Sequence[float]
) -> Schedule:
    """A strategy as AutoNAT writes it: four lists, the first two without the last step, at which they are 0."""
    lengths = len(ratios) + 1, len(remasks) + 1, len(temperatures), len(guidances)
    if len(set(lengths)) > 1:
        raise UserError(f"AutoNAT's strategy: its lists are for {', '.join(map(str, lengths))} steps; make them equal.")
    columns = zip((*ratios, 0.0), temperatures, (*remasks, 0.0), guidances, strict=True)
    return Schedule(tuple(Step(*column) for column in columns), each_reveals=True)


# Found for AutoNAT-L on ImageNet-256, 8 steps, FID 2.68 (Ni et al. 2024).
AUTONAT_8 = autonat(
    ratios=(
        0.9531645174140464,
        0.8795409806037042,
        0.7940230737075623,
        0.745995860948045,
        0.6249785820461957,
        0.407321956652571,
        0.260658917067054,
    ),
    remasks=(
        2.404912789740805,
        2.477616274962803,
        1.191696577294597,
        0.7685444738649722,
        1.0673489052089495,
        0.9353720330515827,
        0.7843839537838292,
    ),
    temperatures=(
        2.8999037830310685,
        1.867261830931786,
        1.1443729673819831,
        1.3796334226014182,
        1.4699896959810144,
        1.3760684112198358,
        1.7082165405200722,
        0.7133060703601533,
    ),
    guidances=(
        0.0001,
        0.0001,
        0.0001,
        0.9151274967591447,
        1.6160182878189675,
        1.1945509026838659,
        1.38322370140345,
        1.22678520936251,
    ),
)


def _cosine(done: float) -> float:
    return max(0.0, math.cos(math.pi / 2 * done))


def _checked(steps: int) -> int:
    if steps < 1:
        raise UserError(f"schedule: steps is {steps}; give 1 or more.")
    return steps
