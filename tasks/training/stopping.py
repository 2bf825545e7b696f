"""Stopping between two steps, all ranks at the same one, when a signal asks for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist

from mmmask.errors import RunFailed, Stopped

GRACE = 10.0  # seconds that a process stuck in foreign code has after the second signal


class StopRequests:
    """Turns the first signal into a request; the second ends the process at once."""

    def __init__(self) -> None:
        self.received = 0  # the signal's number
        self._before: dict[int, Any] = {}
        self._end: threading.Timer | None = None

    def listen(self, signals: Iterable[int]) -> None:
        """Take these signals over, as far as this thread may."""
        if threading.current_thread() is threading.main_thread():
            for signum in signals:
                before = signal.signal(signum, self._receive)
                self._before.setdefault(signum, before)

    def leave(self) -> None:
        """Give the signals back to whom they belonged, unless Lightning has done so already."""
        if self._end:
            self._end.cancel()
        while self._before:
            signum, before = self._before.popitem()
            if signal.getsignal(signum) == self._receive:
                signal.signal(signum, before)

    def _receive(self, signum: int, frame: object) -> None:
        if self.received:
            self._end = threading.Timer(GRACE, os._exit, [128 + signum])
            self._end.daemon = True
            self._end.start()
            raise Stopped(signum, at_once=True)
        self.received = signum
        name = signal.Signals(signum).name
        print(f"mmmask: {name}: stopping after this step; a second one stops at once", file=sys.stderr, flush=True)


def requeue() -> None:
    """Have SLURM run this job again."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise RunFailed(
            f"job {job} could not be queued again ({error}). Its checkpoint is there: submit it anew."
        ) from error


class Agreement:
    """Lets ranks agree on small numbers (the largest of each) without a rank ever waiting for another.

    What is agreed on travels over gloo while the next step is computed, so it is known one call later; and it
    never touches the device, where reading it would hold up the work queued there.
    """

    def __init__(self, world: int) -> None:
        self._group: dist.ProcessGroup | None = dist.new_group(backend="gloo") if world > 1 else None  # type: ignore[assignment]
        self._on_its_way: tuple[torch.Tensor, Any] | None = None

    def __call__(self, *mine: int) -> list[int]:
        """Send mine, and return what was agreed on at the last call. All ranks must call equally often."""
        if self._group is None:
            return list(mine)
        before = self._arrived() or [0] * len(mine)
        numbers = torch.tensor(mine)
        self._on_its_way = numbers, dist.all_reduce(numbers, dist.ReduceOp.MAX, self._group, async_op=True)
        return before

    def _arrived(self) -> list[int] | None:
        if self._on_its_way is None:
            return None
        numbers, work = self._on_its_way
        self._on_its_way = None
        work.wait()
        return numbers.tolist()

    def close(self) -> None:
        """Wait for what is still on its way, so that no rank leaves before the others have heard it."""
        self._arrived()
