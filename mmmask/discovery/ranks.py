"""Sums and gatherings of arrays over the ranks of `torch.distributed`; with one process all of this is the identity."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray


class Ranks:
    """The processes that share the rows, each with a part, in the order of their ranks; `alone`: only this one."""

    def __init__(self, alone: bool = False) -> None:
        together = not alone and dist.is_available() and dist.is_initialized()
        self.rank, self.count = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)

    def sum(self, array: NDArray[Any]) -> NDArray[Any]:
        """The sum over all ranks, the same on each."""
        if self.count == 1:
            return array
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        total = torch.tensor(np.asarray(array), device=device)
        dist.all_reduce(total)
        return total.cpu().numpy()

    def gather(self, thing: Any) -> list[Any]:
        """What each rank has, in order, the same list on each."""
        if self.count == 1:
            return [thing]
        everything: list[Any] = [None] * self.count
        dist.all_gather_object(everything, thing)
        return everything
