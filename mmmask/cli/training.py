"""Verbs of trainings: fit and its like, resume, runs, convert, check."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmmask.cli.calling import call
from mmmask.errors import UserError


def rank() -> str:
    """Which process of a run this is, unless it is the first."""
    rank = next((os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ), "0")
    return f" (rank {rank})" if rank != "0" else ""


def training(verb: str) -> Callable[[list[str]], int]:
    """One of fit, validate, test, predict."""

    def run(arguments: list[str]) -> int:
        with _signals_end_at_once():
            from tasks.command_line import train

            know_classes()
            train([verb, *arguments])
        return 0

    return run


def resume(arguments: list[str]) -> int:
    """Go on with a run: `fit` with its configuration and its last checkpoint, in its folder."""
    if not arguments or arguments[0].startswith("-"):
        print("usage: mmmask resume RUN_FOLDER [OPTIONS OF fit]")
        raise SystemExit(0 if arguments else 2)
    run = Path(arguments[0])
    config, last = run / "config.yaml", run / "checkpoints" / "last.ckpt"
    if absent := [str(path) for path in (config, last) if not path.exists()]:
        raise UserError(f"{run} is no run that could go on: there is no {absent[0]}. `mmmask runs` lists all.")
    where = ["--trainer.default_root_dir", str(run.absolute().parent)]
    return training("fit")(["--config", str(config), "--ckpt_path", str(last), *where, *arguments[1:]])


def runs(arguments: list[str]) -> int:
    """`mmmask runs [FOLDER]`."""
    named = bool(arguments) and not arguments[0].startswith("-")
    return call(show_runs, ["--root", *arguments] if named else arguments, "runs")


def show_runs(root: Path = Path("runs")) -> None:
    """List the runs in a folder and below, the newest last: state, step, last metrics.

    Args:
        root: where to look.
    """
    from rich.console import Console
    from rich.table import Column, Table

    from tasks.training.run_folder import read, state_of

    found = sorted(root.rglob("run.json"), key=lambda path: (read(path.parent).get("began", ""), path))
    if not found:
        raise UserError(f"there are no runs in {root}. `mmmask fit` makes them; another folder: mmmask runs FOLDER")
    names = ("run", "state", "step", "epoch", "last heard of", "metrics")
    table = Table(*(Column(name, overflow="fold") for name in names), box=None)
    for path in found:
        record = read(path.parent)
        metrics = record.get("metrics", {})
        shown = [name for name in metrics if name.startswith("val/")] or list(metrics)
        when = str(record.get("updated", "?"))[5:16].replace("T", " ")
        place = [str(record.get(name, "?")) for name in ("step", "epoch")]
        words = "  ".join(f"{name} {metrics[name]:.4g}" for name in shown)
        table.add_row(str(path.parent.relative_to(root)), state_of(path.parent), *place, when, words)
    Console(markup=False, width=None if sys.stdout.isatty() else 200).print(table)


def convert(checkpoint: Path, out: Path) -> None:
    """Make one file of a sharded checkpoint (a folder), or a sharded checkpoint of one file.

    Args:
        checkpoint: a folder or a file, as a training wrote it.
        out: where to write the other form.
    """
    from tasks.training.conversion import to_full, to_sharded

    if not checkpoint.exists():
        raise UserError(f"checkpoint {checkpoint} does not exist.")
    (to_full if checkpoint.is_dir() else to_sharded)(checkpoint, out)
    print(out)


@contextmanager
def _signals_end_at_once() -> Iterator[None]:
    """Until a training listens for them itself: there is nothing to finish yet, and a KeyboardInterrupt can get lost
    in foreign code that is being imported."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, _end_at_once) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _end_at_once(signum: int, frame: object) -> None:
    if not rank():
        print(f"mmmask: stopped by {signal.Signals(signum).name}", file=sys.stderr, flush=True)
    os._exit(128 + signum)


def know_classes() -> None:
    """Import what configurations may name by its short class name."""
    import datamodules
    import tasks

    _ = datamodules, tasks


def check(arguments: list[str]) -> int:
    """`mmmask check --config ...`."""
    from tasks.checking import check

    know_classes()
    check(arguments)
    return 0
