"""Checkpoints that are whole or absent: last, best and every n steps; and the stop that leaves one behind."""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from mmmask.errors import RunFailed, Stopped, UserError
from mmmask.files import settle, sweep
from tasks.training import finding, loops
from tasks.training.ema import EMA
from tasks.training.stopping import Agreement, StopRequests

log = logging.getLogger(__name__)


class Checkpoints(Checkpoint):
    """Writes `checkpoints/step-N.ckpt` in the run folder, and points `last.ckpt` and `best.ckpt` at them.

    SIGTERM, Ctrl-C and SLURM's requeue signal end the run after a checkpoint of the step under way; so does an
    error between two steps, in a run of one process. Weights that are not finite are never written.

    Args:
        every_n_steps: steps from one checkpoint to the next (0: by time alone).
        every_minutes: minutes from one checkpoint to the next (0: by steps alone).
        keep_every: steps from one checkpoint that is kept for ever to the next (0: only last and best).
        best: a logged validation metric; the checkpoint with the best value is kept as best.ckpt.
        mode: whether the best value is the `min` or the `max`.
        when_full: on a full disk, `stop` the run or `go_on` with the last checkpoint as it is.
    """

    def __init__(
        self,
        every_n_steps: int = 0,
        every_minutes: float = 10,
        keep_every: int = 0,
        best: str | None = None,
        mode: Literal["min", "max"] = "min",
        when_full: Literal["stop", "go_on"] = "stop",
    ) -> None:
        if min(every_n_steps, every_minutes, keep_every) < 0:
            raise UserError("checkpoints: every_n_steps, every_minutes and keep_every must be 0 or more.")
        self.every_n_steps, self.every_minutes, self.keep_every = every_n_steps, every_minutes, keep_every
        self.best, self.mode, self.when_full = best, mode, when_full
        self.folder = Path()
        self.best_step, self.best_value = -1, float("inf")
        self.validation_due = False  # the step of the checkpoint was to be followed by a validation
        self._saved_step, self._saved_at = -1, time.monotonic()
        self._seen_step = self._due = 0
        self._kept: list[int] = []  # steps that passed a multiple of keep_every
        self._agreed_batches = 0.0  # of a validation: ranks may have different numbers of them
        self._written_step = -1
        self._catches_up = False  # with a validation that was due when the run was stopped
        self._stop = StopRequests()
        self._stopped_by = 0

    # When

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            run = trainer.strategy.broadcast(trainer.log_dir or trainer.default_root_dir)
            self.folder = Path(run) / "checkpoints"
            if trainer.is_global_zero and self.folder.is_dir():
                sweep(self.folder)
            self._agree = Agreement(trainer.world_size)

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._listen(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._listen(trainer)
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        self._seen_step = trainer.global_step
        if self.best and not trainer.enable_validation:
            raise UserError(
                f"checkpoints.best is '{self.best}', but nothing is validated: set data.val, or best: null."
            )
        if trainer.is_global_zero and self.best and trainer.ckpt_path:
            self._point("best.ckpt", self.best_step)
        if trainer.ckpt_path:
            self._catches_up = self.validation_due
            loops.go_on(trainer, self.validation_due)
            if self._catches_up:
                self._save(trainer)  # with nothing due any more
            self._catches_up = False

    def _listen(self, trainer: pl.Trainer) -> None:
        environment = trainer._accelerator_connector.cluster_environment
        signals = [signal.SIGTERM, signal.SIGINT]
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            signals.append(environment.requeue_signal or signal.SIGUSR1)
        self._stop.listen(signals)
        # Lightning's own agreement waits for the device at every step, and its handler for the other ranks.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        late = self.every_minutes and time.monotonic() - self._saved_at > 60 * self.every_minutes
        self._hear(late=bool(late and trainer.is_global_zero))
        if trainer.fit_loop._should_accumulate():
            return
        step = trainer.global_step
        keeps, passes = (bool(n) and step // n > self._seen_step // n for n in (self.keep_every, self.every_n_steps))
        self._seen_step = step  # some tasks make several steps a batch
        self._kept += [step] if keeps else []
        if step != self._saved_step and (keeps or passes or loops.is_last_step(trainer)):
            self._due = 1
        if self._stopped_by:
            trainer._logger_connector.on_batch_end()  # which would come after the callbacks, as the row of this step
            trainer._logger_connector.update_train_step_metrics()
            raise Stopped(self._stopped_by)
        if self._due and not loops.validation_follows(trainer):
            self._save(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._agreed_batches = self._agree.least(sum(trainer.num_val_batches))

    def on_validation_batch_end(self, trainer: pl.Trainer, *others: Any, **more: Any) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and self._agreed_batches > 0:
            self._agreed_batches -= 1
            self._hear()
            if self._stopped_by:
                raise Stopped(self._stopped_by)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self.validation_due = False
        before = self.best_step, self.best_value
        improved = self._improved(trainer)
        if not self._catches_up and (improved or self._due or trainer.should_stop) and trainer.global_step:
            self._save(trainer)
            if self._saved_step != self._written_step:
                self.best_step, self.best_value = before

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step != self._saved_step:
            self._save(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and self._can_save(trainer, exception):
            self.validation_due = loops.validation_is_due(trainer)
            try:
                self._save(trainer)
            except UserError as error:
                if isinstance(exception, Stopped):
                    raise
                log.warning("no checkpoint of this step: %s", error)
        self._leave()

    def _can_save(self, trainer: pl.Trainer, exception: BaseException) -> bool:
        """After a stop that all ranks agreed on; after an error if it came between two steps and there is one rank."""
        not_yet = self._saved_step < 0  # this run has not begun; what is there may be another's
        if not_yet or trainer.global_step == self._saved_step or trainer.fit_loop._should_accumulate():
            return False
        if isinstance(exception, Stopped):
            return not exception.at_once
        progress = trainer.fit_loop.epoch_loop.batch_progress.current
        return isinstance(exception, Exception) and trainer.world_size == 1 and progress.ready == progress.completed

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._agree.close()
        self._leave()

    def _leave(self) -> None:
        self._stop.leave()

    def _hear(self, late: bool = False) -> None:
        """What any rank has been asked for: to stop, or to save because it is time."""
        stopped_by, due = self._agree(self._stop.received, int(late))
        self._stopped_by, self._due = self._stopped_by or stopped_by, self._due or due

    # What

    def _save(self, trainer: pl.Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]  # leaves nothing
            return
        if not _finite(trainer):
            raise RunFailed(
                f"the weights are not finite any more after step {trainer.global_step}: nothing was written, "
                f"{self.folder / 'last.ckpt'} is the checkpoint before. Go on from it with a lower learning rate."
            )
        step = trainer.global_step
        problem = None
        try:
            trainer.save_checkpoint(self._path(step))
        except UserError as error:
            problem = str(error)
            trainer.strategy.barrier()  # where the other ranks wait
        if self._written_step < 0 and not problem and trainer.is_global_zero:
            problem = _unreadable(self._path(step))
        problem = trainer.strategy.broadcast(problem)
        self._saved_step, self._saved_at, self._due = step, time.monotonic(), 0
        self._written_step = self._written_step if problem else step
        if problem and self.when_full == "stop":
            raise RunFailed(f"{problem[:-1]}; the checkpoint before is as it was. Make room and go on from it.")
        if problem:
            log.warning("%s The run goes on without this checkpoint.", problem)
        elif trainer.is_global_zero:
            self._point("last.ckpt", step)
            self._point("best.ckpt", self.best_step)
            self._forget(step)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.ckpt"

    def _point(self, name: str, step: int) -> None:
        """Have the link `name` lead to the checkpoint of this step, without a moment at which it leads nowhere."""
        if not self._path(step).exists():
            return
        temporary = self.folder / f".{name}.tmp-{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(self._path(step).name)
        os.replace(temporary, self.folder / name)
        settle(self.folder)

    def _forget(self, last: int) -> None:
        ours = {path: re.fullmatch(r"step-(\d{8,})\.ckpt", path.name) for path in self.folder.iterdir()}
        for path, step in ((path, int(match[1])) for path, match in ours.items() if match):
            if step not in (last, self.best_step, *self._kept):
                doomed = self.folder / f".{path.name}.tmp-{os.getpid()}"  # so that no half of it is ever found
                path.rename(doomed)
                shutil.rmtree(doomed) if doomed.is_dir() else doomed.unlink()

    def _improved(self, trainer: pl.Trainer) -> bool:
        """Whether this validation was the best so far; rank 0 decides for all."""
        if not self.best:
            return False
        if self.best not in trainer.callback_metrics:
            known = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise UserError(f"checkpoints.best is '{self.best}', but the validation logs {known}.")
        value = float(trainer.callback_metrics[self.best])
        better = value < self.best_value if self.mode == "min" else value > self.best_value
        better = trainer.strategy.broadcast(better or (self.best_step < 0 and math.isfinite(value)))
        if better and trainer.global_step:
            self.best_step, self.best_value = trainer.global_step, trainer.strategy.broadcast(value)
        return better

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        averaged = "ema" in checkpoint and not any(isinstance(callback, EMA) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if averaged or "current_model_state" in checkpoint:
            raise UserError(
                "the checkpoint is of a run with averaged weights, and this one averages none: list the callback EMA "
                "in trainer.callbacks, as the config.yaml beside the checkpoint does."
            )

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        loops.count_finished_epoch(checkpoint)

    def state_dict(self) -> dict[str, Any]:
        best = {"best_step": self.best_step, "best_value": self.best_value}
        return {**best, "kept": self._kept, "validation_due": self.validation_due}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best_step, self.best_value = state["best_step"], state["best_value"]
        self._kept, self.validation_due = list(state["kept"]), state["validation_due"]


def _unreadable(path: Path) -> str | None:
    """Why no run will go on from a checkpoint that was just written: better known at the first than at the last."""
    try:
        finding.checked(path)
    except UserError as error:
        return f"{error} Have tasks and callbacks put plain values and tensors into their states."
    return None


def _finite(trainer: pl.Trainer) -> bool:
    """Whether all weights and buffers that are kept are, on all ranks: a mask of attention may hold infinity."""
    tensors = [getattr(t, "_local_tensor", t) for t in trainer.lightning_module.state_dict().values()]
    flags = [tensor.isfinite().all() for tensor in tensors if tensor.is_floating_point()]
    return trainer.strategy.reduce_boolean_decision(bool(torch.stack(flags).all()) if flags else True)
