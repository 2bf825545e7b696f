"""Schedules as data: for each decoding step, how much stays masked, the temperatures, the guidance."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Literal, TypeVar

from mmmask.errors import UserError


@dataclass(frozen=True)
class Step:
    """One decoding step: the share of tokens `masked` after it; how freely words are drawn (`temperature`) and kept
    (`remask`, the weight of noise in the confidences); `guidance` w in `c + w (c - u)`, 0 for none."""

    masked: float
    temperature: float = 1.0
    remask: float = 0.0
    guidance: float = 0.0


Same = TypeVar("Same", bound="Schedule")


class Schedule:
    """Steps from all masked to none. With `each_reveals`, every step reveals one token at least."""

    made_of: Mapping[str, Any] = {}  # the settings of one that computes its steps

    def __init__(self, steps: Sequence[Step], each_reveals: bool = False) -> None:
        steps = [step if isinstance(step, Step) else Step(**step) for step in steps]  # from a file they are dicts
        if not all(math.isfinite(number) for step in steps for number in vars(step).values()):
            raise UserError("schedule: its numbers must be finite.")
        shares = [step.masked for step in steps]
        if not shares or shares[-1] > 1e-9:
            raise UserError(
                f"schedule: {shares[-1] if shares else 1:.0%} of the tokens are still masked after the last step; "
                "its 'masked' must be 0."
            )
        if any(share < 0 or share > 1 for share in shares):
            raise UserError(f"schedule: 'masked' is a share from 0 to 1; given: {shares}.")
        if shares != sorted(shares, reverse=True) and not each_reveals:
            raise UserError(f"schedule: 'masked' must not grow from step to step; given: {shares}.")
        if any(step.temperature < 0 or step.remask < 0 for step in steps):
            raise UserError("schedule: temperatures must be 0 or more.")
        self.steps, self.each_reveals = tuple(steps), each_reveals

    def __len__(self) -> int:
        return len(self.steps)

    def with_(self: Same, **settings: float) -> Same:
        """The same with other numbers for some of the settings that it was made of."""
        if wrong := [name for name in settings if name not in self.made_of]:
            raise UserError(f"{type(self).__name__} has no such setting ({', '.join(wrong)}), it is what it is.")
        return type(self)(**{**self.made_of, **settings}) if settings else self

    def counts(self, tokens: int) -> list[int]:
        """How many of so many tokens are masked before each step and after the last."""
        counts = [tokens]
        for number, step in enumerate(self.steps[:-1], 1):
            masked = math.floor(tokens * step.masked)
            if self.each_reveals:
                masked = max(len(self) - number, min(counts[-1] - 1, masked), 0)
            counts.append(min(masked, counts[-1]))
        return [*counts, 0]


class CosineSchedule(Schedule):
    """MaskGIT (Chang et al. 2022): masked by the cosine, words drawn plainly, noise of confidences falling to 0.

    Guidance stays `constant`, or is `linear` in the steps done, this one included.
    """

    def __init__(
        self,
        steps: int = 8,
        temperature: float = 1.0,
        remask: float = 4.5,
        guidance: float = 0.0,
        growth: Literal["constant", "linear"] = "constant",
    ) -> None:
        if growth not in ("constant", "linear"):
            raise UserError(f"CosineSchedule: growth is '{growth}'; choose constant or linear.")
        settings = {"temperature": temperature, "remask": remask, "guidance": guidance}
        self.made_of = {"steps": steps, "growth": growth, **settings}
        done = [(s + 1) / steps for s in range(_checked(steps))]
        scales = [guidance if growth == "constant" else guidance * share for share in done]
        columns = zip(done, scales, strict=True)
        super().__init__([Step(_cosine(r), temperature, remask * (1 - r), w) for r, w in columns], each_reveals=True)


class ENATSchedule(Schedule):
    """ENAT (Ni et al. 2024), its setting for 256 pixels; for 512: temperature 4, guidance 3.5.

    Both temperatures fall to 0, guidance grows and lags one step behind.
    """

    def __init__(self, steps: int = 8, temperature: float = 6.0, remask: float = 1.5, guidance: float = 2.5) -> None:
        if temperature < 0:
            raise UserError("schedule: temperatures must be 0 or more.")
        self.made_of = {"steps": steps, "temperature": temperature, "remask": remask, "guidance": guidance}
        left = [1 - (s + 1) / steps for s in range(_checked(steps))]
        super().__init__(
            [
                Step(_cosine(1 - share), max(temperature * share, 1e-3), remask * share, guidance * s / steps)
                for s, share in enumerate(left)
            ]
        )


class ReCAPSchedule(Schedule):
    """ReCAP (Liu et al. 2025), for a sampler with groups of the same `full` and `local`.

    What is revealed grows with the power 2.5 of the steps done; words are drawn ever more like `temperature`, and
    noise in the choice of a group falls to 0 with the last group.
    """

    def __init__(
        self,
        steps: int = 16,
        full: int = 0,
        local: int = 1,
        temperature: float = 0.65,
        remask: float = 5.5,
        guidance: float = 0.0,
    ) -> None:
        if full < 0 or local < 0:
            raise UserError(f"ReCAPSchedule: full and local are 0 or more; given: {full} and {local}.")
        settings = {"temperature": temperature, "remask": remask, "guidance": guidance}
        self.made_of = {"steps": steps, "full": full, "local": local, **settings}
        done = [s / _checked(steps) for s in range(1, steps + 1)]
        groups = full + -(-max(0, steps - full) // (local + 1)) if steps > full else steps
        group = [min(s, full + max(0, s - full) // (local + 1)) for s in range(steps)]
        super().__init__(
            [
                Step(
                    1 - done[s] ** 2.5,
                    temperature + (1 - (s / max(1, steps - 1)) ** 0.5) * (1 - temperature),
                    remask * (1 - (group[s] + 1) / groups),
                    guidance,
                )
                for s in range(steps)
            ],
            each_reveals=True,
        )

    def counts(self, tokens: int) -> list[int]:
        """As published: a step that would reveal nothing reveals one token, at the cost of the last step."""
        kept = [math.floor(tokens * step.masked + 1e-9) for step in self.steps]
        revealed = [max(1, a - b) for a, b in pairwise([tokens, *kept])][:-1]
        left = list(accumulate(revealed, lambda a, b: max(0, a - b), initial=tokens))
        return [*left, 0]


class AutoNATSchedule(Schedule):
    """A strategy as AutoNAT (Ni et al. 2024) writes it: the first two lists without the last step, where they are 0.

    The default was found for AutoNAT-L on ImageNet-256: 8 steps, FID 2.68.
    """

    def __init__(
        self,
        ratios: Sequence[float] = (
            0.9531645174140464,
            0.8795409806037042,
            0.7940230737075623,
            0.745995860948045,
            0.6249785820461957,
            0.407321956652571,
            0.260658917067054,
        ),
        remasks: Sequence[float] = (
            2.404912789740805,
            2.477616274962803,
            1.191696577294597,
            0.7685444738649722,
            1.0673489052089495,
            0.9353720330515827,
            0.7843839537838292,
        ),
        temperatures: Sequence[float] = (
            2.8999037830310685,
            1.867261830931786,
            1.1443729673819831,
            1.3796334226014182,
            1.4699896959810144,
            1.3760684112198358,
            1.7082165405200722,
            0.7133060703601533,
        ),
        guidances: Sequence[float] = (
            0.0001,
            0.0001,
            0.0001,
            0.9151274967591447,
            1.6160182878189675,
            1.1945509026838659,
            1.38322370140345,
            1.22678520936251,
        ),
    ) -> None:
        lengths = len(ratios) + 1, len(remasks) + 1, len(temperatures), len(guidances)
        if len(set(lengths)) > 1:
            raise UserError(
                "AutoNATSchedule: ratios, remasks, temperatures and guidances are for "
                f"{', '.join(map(str, lengths))} steps; give all four, the first two with one number less."
            )
        columns = zip((*ratios, 0.0), temperatures, (*remasks, 0.0), guidances, strict=True)
        super().__init__([Step(*column) for column in columns], each_reveals=True)


def _cosine(done: float) -> float:
    return max(0.0, math.cos(math.pi / 2 * done))


def _checked(steps: int) -> int:
    if steps < 1:
        raise UserError(f"schedule: steps is {steps}; give 1 or more.")
    return steps
