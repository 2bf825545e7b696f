"""Matrix products: on processors where MKL is slow, those of plain float32 inference go to oneDNN."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST = 2**22  # multiplications, below which oneDNN's start-up costs more than it saves


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, `(..., in)` to `(..., out)`; in inference by the faster library."""
    if not torch.is_grad_enabled() and x.numel() * len(weight) >= LEAST and _plain(x, weight) and _mkl_is_slow():
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """A layer of it."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def _plain(x: Tensor, weight: Tensor) -> bool:
    """Whether both are float32 on the CPU, in no autocast, compilation or sharding."""
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and type(x) is Tensor
        and type(weight) in (Tensor, nn.Parameter)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


@cache
def _mkl_is_slow() -> bool:
    """Measured on AMD's with AVX-512: of products 200 x 768 x 2,304 oneDNN does 1.2 times as many in the same time."""
    if not torch.backends.mkl.is_available() or not torch.backends.mkldnn.is_available():
        return False
    told = Path("/proc/cpuinfo")
    vendor = told.read_text() if told.is_file() else platform.processor()
    return "AuthenticAMD" in vendor and torch.backends.cpu.get_cpu_capability() == "AVX512"
