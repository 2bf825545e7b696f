"""Sums and gatherings of arrays over the ranks of `torch.distributed`; with one process all of this is the identity."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from mmmask.errors import UserError

Result = TypeVar("Result")


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

    def checked(self, check: Callable[[], Result]) -> Result:
        """What `check` of this rank's part returns; if it raises a UserError on any rank it does on all, for the others
        would wait for ever."""
        result, error = None, ""
        try:
            result = check()
        except UserError as found:
            if self.count == 1:
                raise
            error = str(found)
        wrong = [f"rank {rank}: {sentence}" for rank, sentence in enumerate(self.gather(error)) if sentence]
        if wrong:
            raise UserError("; ".join(wrong))
        return result  # type: ignore[return-value]
