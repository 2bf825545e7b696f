"""Laws by which the share of asked tokens is drawn; each maps `n` and a generator to `n` numbers in 0..1."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmmask.errors import UserError


class Ratio(ABC):
    """A law of shares."""

    @abstractmethod
    def __call__(self, n: int, generator: torch.Generator | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Fixed(Ratio):
    """Always the same share."""

    ratio: float

    def __post_init__(self) -> None:
        _in_order("Fixed", ratio=(0, self.ratio, 1))

    def __call__(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.full((n,), self.ratio, dtype=torch.float64)


@dataclass(frozen=True)
class Uniform(Ratio):
    """All shares from `low` to `high` equally often."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        _in_order("Uniform", low_and_high=(0, self.low, self.high, 1))

    def __call__(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return self.low + (self.high - self.low) * _uniform(n, generator)


@dataclass(frozen=True)
class Cosine(Ratio):
    """The cosine of a uniform angle (MaskGIT): mostly large shares, as decoding meets them."""

    def __call__(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return (math.pi / 2 * _uniform(n, generator)).cos()


@dataclass(frozen=True)
class Beta(Ratio):
    """The Beta distribution; (12, 3), with mean 0.8, is what AutoNAT's search found."""

    a: float = 12.0
    b: float = 3.0

    def __post_init__(self) -> None:
        if min(self.a, self.b) <= 0:
            raise UserError(f"Beta: a and b must be above 0; they are {self.a} and {self.b}.")

    def __call__(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        seed = int(torch.randint(2**62, (), generator=generator))  # torch's own Beta takes no generator
        return torch.from_numpy(np.random.default_rng(seed).beta(self.a, self.b, n))


@dataclass(frozen=True)
class TruncatedNormal(Ratio):
    """A normal distribution cut off at `low` and `high` (MAGE: 0.55, 0.25, from 0.5 to 1)."""

    mean: float = 0.55
    std: float = 0.25
    low: float = 0.5
    high: float = 1.0

    def __post_init__(self) -> None:
        _in_order("TruncatedNormal", low_and_high=(0, self.low, self.high, 1))
        if self.std <= 0:
            raise UserError(f"TruncatedNormal: std must be above 0; it is {self.std}.")

    def __call__(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
        ends = normal.cdf((torch.tensor([self.low, self.high], dtype=torch.float64) - self.mean) / self.std)
        u = ends[0] + (ends[1] - ends[0]) * _uniform(n, generator)
        return (self.mean + self.std * normal.icdf(u)).clamp(self.low, self.high)


def _uniform(n: int, generator: torch.Generator | None) -> Tensor:
    return torch.rand(n, generator=generator, dtype=torch.float64)


def _in_order(law: str, **numbers: tuple[float, ...]) -> None:
    for name, values in numbers.items():
        if list(values) != sorted(values):
            given = " and ".join(str(value) for value in values[1:-1])
            raise UserError(f"{law}: {name.replace('_', ' ')} must lie, in order, from 0 to 1; given: {given}.")
