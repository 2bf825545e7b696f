"""What keeps losses finite: full precision, and means over only what is there, in fixed shapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor

Options = ParamSpec("Options")
Loss = Callable[Concatenate[Tensor, Options], Tensor]


def full_precision(loss: Loss[Options]) -> Loss[Options]:
    """A loss whose products are float32 also under autocast: bfloat16 over a temperature of 0.04 is noise."""

    @wraps(loss)
    def precise(x: Tensor, *args: Options.args, **kwargs: Options.kwargs) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return loss(x.float(), *args, **kwargs)

    return precise


def mean_over(values: Tensor, counted: Tensor, dim: int | None = None) -> Tensor:
    """The mean of the values that are counted, of all or along `dim`; of none it is 0, and so is its gradient."""
    counted = counted.expand_as(values)
    return values.masked_fill(~counted, 0).sum(dim) / counted.sum(dim).clamp(min=1)


def only_present(x: Tensor, present: Tensor | None) -> Tensor:
    """`(..., D)` with zeros where `present` `(...)` is not: whatever stood there, even NaN, passes no gradient."""
    return x if present is None else x.masked_fill(~present[..., None], 0)


def presence(x: Tensor, present: Tensor | None) -> Tensor:
    """`present` `(...)` of `(..., D)`; all of it where nothing is said."""
    shape = x.shape[:-1]
    return torch.ones(shape, dtype=torch.bool, device=x.device) if present is None else present.expand(shape)
