"""Stopping between two steps, all ranks at the same one, when a signal asks for it."""

from __future__ import annotations

import os
import select
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
        self._pipe: tuple[int, int] | None = None

    def listen(self, signals: Iterable[int]) -> None:
        """Take these signals over, as far as this thread may."""
        if threading.current_thread() is threading.main_thread():
            self._watch()
            for signum in signals:
                before = signal.signal(signum, self._receive)
                self._before.setdefault(signum, before)

    def leave(self) -> None:
        """Give the signals back to whom they belonged, unless Lightning has done so already."""
        if self._pipe:
            signal.set_wakeup_fd(-1)
            os.close(self._pipe[1])  # which ends the watching thread
            self._pipe = None
        while self._before:
            signum, before = self._before.popitem()
            if signal.getsignal(signum) == self._receive:
                signal.signal(signum, before)

    def _watch(self) -> None:
        """See to it that the second signal ends the process also if it hangs in foreign code, where Python handles no
        signals: a thread hears of them through a pipe."""
        if self._pipe:
            return
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        threading.Thread(target=self._end_if_stuck, args=[self._pipe[0]], daemon=True, name="signals").start()

    def _end_if_stuck(self, pipe: int) -> None:
        heard = 0
        while received := os.read(pipe, 1):
            heard += received[0] in self._before
            if heard > 1:
                if not select.select([pipe], [], [], GRACE)[0] or os.read(pipe, 1):
                    os._exit(128 + received[0])
                break
        os.close(pipe)

    def _receive(self, signum: int, frame: object) -> None:
        if self.received:
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

    def least(self, mine: float) -> float:
        """The smallest of a number over all ranks."""
        if self._group is None:
            return mine
        number = torch.tensor(float(mine))
        dist.all_reduce(number, dist.ReduceOp.MIN, self._group)
        return number.item()

    def close(self) -> None:
        """Wait for what is still on its way, so that no rank leaves before the others have heard it."""
        self._arrived()
