"""The run folder: one training, however often it was stopped and resumed, with all that belongs to it.

run-1/  config.yaml  environment.json  run.json  metrics.csv  checkpoints/  samples/  TensorBoard's events
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
import re
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from filelock import FileLock, Timeout
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from mmmask.errors import Stopped, UserError
from mmmask.files import LOCK, only_writer, written_whole

EVERY = 10.0  # seconds between two notes of how far a run is


def begin(root: Path) -> Path:
    """A new folder `run-N` in `root`, of which no other process can have got the name too."""
    root.mkdir(parents=True, exist_ok=True)
    taken = [int(match[1]) for path in root.iterdir() if (match := re.fullmatch(r"run-(\d+)", path.name))]
    number = 1 + max(taken, default=0)
    while True:
        try:
            (root / f"run-{number}").mkdir()
            return root / f"run-{number}"
        except FileExistsError:
            number += 1


class Metrics(CSVLogger):
    """metrics.csv, which a resumed run continues: rows of steps that it makes again are taken out."""

    def __init__(self, folder: Path, resumed_step: int) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=1)
        self._resumed_step = resumed_step

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = _Rows(self.log_dir, self._resumed_step)
        return self._experiment


class _Rows(ExperimentWriter):
    def __init__(self, folder: str, resumed_step: int) -> None:
        super().__init__(folder)
        self._resumed_step: int | None = resumed_step

    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        if self._resumed_step is not None:  # only now is it sure that the run goes on
            self._take_out_later_than(self._resumed_step)
            self._resumed_step = None
        super().log_metrics(metrics_dict, step)

    def _take_out_later_than(self, resumed_step: int) -> None:
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with open(path, newline="") as stream:
            reader = csv.DictReader(stream)
            self.metrics_keys = list(reader.fieldnames or [])
            rows = [row for row in reader if (row.get("step") or "").isdigit() and int(row["step"]) < resumed_step]
        with written_whole(path) as stream:
            stream.write(_as_csv(self.metrics_keys, rows).encode())

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with open(self.metrics_file_path, newline="") as stream:
            rows = list(csv.DictReader(stream))
        with written_whole(Path(self.metrics_file_path)) as whole:
            whole.write(_as_csv(fieldnames, rows).encode())

    def _check_log_dir_exists(self) -> None:
        """A folder with rows in it is what is expected here."""


def _as_csv(names: list[str], rows: list[dict[str, str]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class RunRecord(pl.Callback):
    """Keeps the folder for this process alone, from now on, and writes down where and how the run is: run.json.

    To be the last callback: a run has ended when its last checkpoint is written.
    """

    def __init__(self, folder: Path, holds: bool = True) -> None:
        self.folder = folder
        self._held = ExitStack()
        if holds:
            self._held.enter_context(only_writer(folder))
        self._written = 0.0
        self._ours = False
        self._began = datetime.now().isoformat(timespec="seconds")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.is_global_zero and stage == "fit":
            before = read(self.folder)
            self._began = before.get("began", self._began)
            self._ours = not before  # a run that is resumed is ours once it goes on
            if self._ours:
                self._write(trainer, "starting")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._ours = True
        if trainer.is_global_zero:
            with written_whole(self.folder / "environment.json") as stream:
                stream.write(json.dumps(environment(), indent=1).encode())
            self._write(trainer, "running")

    def on_train_batch_end(self, trainer: pl.Trainer, *others: Any) -> None:
        if trainer.is_global_zero and time.monotonic() - self._written > EVERY:
            self._write(trainer, "running")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and trainer.training:
            self._write(trainer, "running")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end(trainer, "finished")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, Stopped | KeyboardInterrupt):
            self._end(trainer, str(exception) or "interrupted")
        else:
            first = str(exception).partition("\n")[0]
            self._end(trainer, f"failed: {first or type(exception).__name__}")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._held.close()

    def _end(self, trainer: pl.Trainer, state: str) -> None:
        if trainer.is_global_zero and self._ours:
            self._write(trainer, state)
        self._held.close()

    def _write(self, trainer: pl.Trainer, state: str) -> None:
        self._written = time.monotonic()
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if value.numel() == 1}
        record = {
            "state": state,
            "step": trainer.global_step,
            "epoch": trainer.current_epoch,
            "began": self._began,
            "updated": datetime.now().isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "processes": trainer.world_size,
            "metrics": {name: value for name, value in metrics.items() if math.isfinite(value)},
        }
        with suppress(UserError), written_whole(self.folder / "run.json") as stream:  # what ends a run on a full disk
            stream.write(json.dumps(record, indent=1).encode())  # is the checkpoint that it cannot write


def read(folder: Path) -> dict[str, Any]:
    """What run.json says, or nothing if there is none to read."""
    try:
        record = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(record, dict):
        return {}
    metrics = record.get("metrics")
    numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)} if isinstance(metrics, dict) else {}
    return {**{name: str(value) for name, value in record.items()}, "metrics": numbers}


def state_of(folder: Path) -> str:
    """The state in run.json; a run that says it is running while nobody holds its folder was killed."""
    state = read(folder).get("state", "unknown")
    if state not in ("running", "starting"):
        return state
    try:
        with FileLock(folder / LOCK, timeout=0):
            return "killed"
    except Timeout:
        return state
    except OSError:  # somebody else's folder: nothing can be said beyond what is written
        return state


def environment() -> dict[str, Any]:
    """What a run depends on besides its configuration; no environment variables, for they hold secrets."""
    names = ("mmmask", "torch", "lightning", "torchvision", "numpy", "webdataset", "jsonargparse", "faiss-gpu")
    versions = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "command": ["mmmask", *sys.argv[1:]],
        "commit": commit(Path(__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions,
        "devices": devices or [f"{os.cpu_count()} CPU cores"],
        "cuda": torch.version.cuda,
    }


def commit(folder: Path) -> str | None:
    """The git commit that a folder is at, with `-dirty` if files were changed since; none outside of git."""
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
