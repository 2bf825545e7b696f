"""Random numbers for decoding: a function of seed, step and place alone.

So the images of a seed do not depend on the batch they are made in, on the device, or on what else was drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# SplitMix64 (Steele, Lea, Flood 2014); as signed numbers, for torch multiplies them modulo 2^64.
GOLDEN, FIRST, SECOND = (c - (1 << 64) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
DRAWS, CONFIDENCES, ACTIONS = range(3)  # what numbers are for: two uses never share them


class Noise:
    """Numbers for samples with these seeds `(B,)`, at places `(B, n)` of their token grids."""

    def __init__(self, seeds: Sequence[int] | Tensor, device: torch.device | str = "cpu") -> None:
        self.seeds = torch.as_tensor(list(seeds), dtype=torch.int64, device=device)

    def to(self, device: torch.device | str) -> Noise:
        """The same numbers, made on this device."""
        self.seeds = self.seeds.to(device)
        return self

    def choose(self, logits: Tensor, step: int, places: Tensor) -> Tensor:
        """One word `(B, n)` for each place, by the probabilities of `logits` `(B, n, V)`."""
        chances = logits.softmax(-1).cumsum(-1)
        threshold = self._uniform(step, DRAWS, places)[..., None] * chances[..., -1:]
        return (chances <= threshold).sum(-1).clamp(max=logits.shape[-1] - 1)

    def gumbel(self, step: int, places: Tensor) -> Tensor:
        """Standard Gumbel noise `(B, n)`."""
        return -(-self._uniform(step, CONFIDENCES, places).log()).log()

    def normal(self, step: int, n: int) -> Tensor:
        """Standard normal noise `(B, n)`, for what is decided about a step."""
        places = torch.arange(n, device=self.seeds.device).expand(len(self.seeds), -1)
        return torch.special.ndtri(self._uniform(step, ACTIONS, places))

    def _uniform(self, step: int, use: int, places: Tensor) -> Tensor:
        """Numbers strictly between 0 and 1, in float32."""
        number = -step if use == ACTIONS else 2 * step + use + 1
        stream = _mix(self.seeds + _signed(number * GOLDEN))
        bits = _mix(stream[:, None] + (places + 1) * GOLDEN)
        return ((_shifted(bits, 41)).float() + 0.5) / 2**23


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * FIRST
    x = (x ^ _shifted(x, 27)) * SECOND
    return x ^ _shifted(x, 31)


def _signed(x: int) -> int:
    """Modulo 2^64, as int64 has it."""
    return (x + (1 << 63)) % (1 << 64) - (1 << 63)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Shifted right without the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
