"""Keys and values that attention keeps from a pass over many tokens for passes over few of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Cache(Protocol):
    """What one attention hands the keys and values `(B, H, N, Dh)` of its tokens to, and gets those it is to use."""

    def __call__(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]: ...


class Kept:
    """Of a full pass: all keys and values, which are used as they are."""

    keys: Tensor
    values: Tensor

    def __call__(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.keys, self.values = k, v
        return k, v

    def at(self, columns: Tensor) -> Recalled:
        """Those at these columns `(B, n)`."""
        index = columns[:, None, :, None].expand(-1, self.keys.shape[1], -1, self.keys.shape[3])
        return Recalled(self.keys.gather(2, index), self.values.gather(2, index))


class Recalled:
    """For a pass over few tokens: keys and values of others, before their own."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values

    def __call__(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([self.keys, k], 2), torch.cat([self.values, v], 2)


class Growing(Kept):
    """A full pass and, after it, passes over tokens that have come since: they see all from before."""

    def __call__(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if hasattr(self, "keys"):
            k, v = torch.cat([self.keys, k], 2), torch.cat([self.values, v], 2)
        return super().__call__(k, v)


def recalled(kept: Sequence[Kept], columns: Tensor) -> list[Recalled]:
    """The same columns `(B, n)` of each layer."""
    return [layer.at(columns) for layer in kept]
