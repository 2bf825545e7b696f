"""Processes of one run on one machine live and die together, and who died first is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import lightning.pytorch as pl

from mmmask.processes import end_with_parent

PATIENCE = 5.0  # seconds that this process has to end by itself once another is gone
LAUNCHER = "MMMASK_LAUNCHER"  # the process whose children the other ranks are


class Ranks(pl.Callback):
    """Rank 0 watches the processes it has started; they end when it does, however it does.

    (Lightning's own watch kills rank 0 without a word, and a killed rank 0 leaves the others behind.)
    """

    def __init__(self) -> None:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            os.environ[LAUNCHER] = str(os.getpid())
        elif os.environ.get(LAUNCHER) == str(os.getppid()):
            end_with_parent()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if processes := started_by(trainer):
            for thread in threading.enumerate():
                if thread.name == "child-process-observer":
                    thread._child_processes = []  # type: ignore[attr-defined]
            threading.Thread(target=_watch, args=[processes], daemon=True, name="ranks").start()


def started_by(trainer: Any) -> list[subprocess.Popen[bytes]]:
    """The other ranks on this machine, as far as this process started them."""
    return getattr(trainer.strategy.launcher, "procs", [])


def gone(processes: list[subprocess.Popen[bytes]]) -> str | None:
    """The first of the processes that has ended other than well, in words."""
    for rank, process in enumerate(processes, start=1):
        code = process.poll()
        if code:
            ended = f"ended with exit code {code} (see its message)"
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else ended
            return f"rank {rank} (process {process.pid}) {how}"
    return None


def who_is_gone(trainer: Any, within: float = 2.0) -> str:
    """Name the rank that was lost; its end may become known a little after its silence."""
    processes = started_by(trainer) if trainer else []
    until = time.monotonic() + (within if processes else 0)
    while not (found := gone(processes)) and time.monotonic() < until:
        time.sleep(0.05)
    return found or "another rank is gone"


def _watch(processes: list[subprocess.Popen[bytes]]) -> None:
    while not (found := gone(processes)):
        if all(process.poll() == 0 for process in processes):
            return
        time.sleep(0.2)
    time.sleep(PATIENCE)
    for process in processes:
        if process.poll() is None:
            process.kill()
    show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
    print(f"{show_cursor}mmmask: {found}; the run ends. Go on from its last checkpoint.", file=sys.stderr, flush=True)
    os._exit(1)
