"""How far a run is: steps, metrics, speed and the time that is left, in one line."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar, Timer
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console

from tasks.training.screen import REDRAW, Line, Piece, Screen
from tasks.training.speed import Speed

# key of Speed.latest -> rank in the line, and how it is written
SPEEDS = {
    "speed/samples_per_second": (4, lambda value: f"{_short(value)} samples/s"),
    "speed/tokens_per_second": (11, lambda value: f"{_short(value)} tokens/s"),
    "speed/data_wait": (7, lambda value: f"wait {value:.0%}"),
    "speed/memory_gib": (8, lambda value: f"{value:.1f} GiB"),
    "speed/model_flops_utilisation": (9, lambda value: f"MFU {value:.0%}"),
}


class Pace:
    """Seconds that steps will take: as the recent ones did, each with its share of all validations so far."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, int]] = deque(maxlen=240)  # the last minute, or as many slow steps
        self._validating = self._share = 0.0
        self._first: int | None = None

    def at(self, now: float, step: int) -> None:
        """The time at which a step had been done."""
        self._first = step if self._first is None else self._first
        if not self._recent or step > self._recent[-1][1]:
            self._recent.append((now - self._validating, step))

    def validated(self, seconds: float, step: int) -> None:
        """A validation after this step took so long."""
        self._validating += seconds
        if self._first is not None and step > self._first:
            self._share = self._validating / (step - self._first)

    def seconds(self, steps: int) -> float | None:
        """How long so many steps will take; none as long as nothing is known."""
        if len(self._recent) < 2:
            return None
        (began, first), (now, last) = self._recent[0], self._recent[-1]
        return steps * ((now - began) / (last - first) + self._share)


class Progress(ProgressBar):
    """Writes to stderr: stdout holds results only. Metrics are those logged with `prog_bar=True`; samples a second,
    wait for data and memory are those of a `Speed` callback.

    Args:
        plain_seconds: without a terminal, least seconds from one line to the next.
        console: where to write instead.
    """

    def __init__(self, plain_seconds: float = 15.0, console: Console | None = None) -> None:
        super().__init__()
        self.plain_seconds, self._console = plain_seconds, console
        self._enabled = True
        self._screen: Screen | None = None  # while something is under way
        self._began = self._stage_began = self._looked = 0.0

    def disable(self) -> None:
        """Tell nothing: on other ranks, and while Lightning tries learning rates or batch sizes."""
        self._enabled = False

    def enable(self) -> None:
        """Tell again."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out how long the run will be."""
        self._open()
        self._pace, self._validated = Pace(), set[str]()  # names of metrics that validation logs
        steps = trainer.estimated_stepping_batches if pl_module.automatic_optimization else trainer.max_steps
        self._steps = int(steps) if 0 < steps < math.inf else None
        callbacks: list[pl.Callback] = getattr(trainer, "callbacks", [])
        timers = (c for c in callbacks if isinstance(c, Timer))
        self._timer = next((timer for timer in timers if timer.time_remaining() is not None), None)
        self._speed = next((c for c in callbacks if isinstance(c, Speed)), None)
        if self._screen and trainer.global_step:
            self._screen.say(f"continuing after {self._step()}")
        if self._screen and self._screen.live:
            self._screen.show(self._training())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the clock; when it is time, show."""
        if self._screen and (now := time.monotonic()) - self._looked >= REDRAW:
            self._looked = now
            self._pace.at(now, trainer.global_step)
            if self._screen.due(now):
                self._screen.show(self._training())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last line stays."""
        if self._screen:
            self._screen.show(self._training(ended=True))
        self._close()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A line below the one of the training, or one of its own."""
        self._start_evaluation("validation", trainer.num_val_batches)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A line of its own."""
        self._start_evaluation("test", trainer.num_test_batches)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A line of its own."""
        self._start_evaluation("prediction", trainer.num_predict_batches)

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        """One batch more."""
        self._evaluated_batch()

    def on_test_batch_end(self, *_: Any, **__: Any) -> None:
        """One batch more."""
        self._evaluated_batch()

    def on_predict_batch_end(self, *_: Any, **__: Any) -> None:
        """One batch more."""
        self._evaluated_batch()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What came out stays; the training goes on."""
        if trainer.state.fn != TrainerFn.FITTING:
            self._end_evaluation()
        elif self._screen:  # there is none before the training starts, so that sanity checking is silent
            seconds = time.monotonic() - self._stage_began
            self._pace.validated(seconds, trainer.global_step)
            metrics = trainer._logger_connector.metrics["pbar"]
            self._validated.update(metrics)
            words = [f"{name} {_number(value)}" for name, value in metrics.items()]
            self._screen.say(
                "  ".join([f"validation at step {trainer.global_step:,}", *words, f"in {_clock(seconds)}"])
            )
            if self._screen.live:
                self._screen.show(self._training())

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last line stays."""
        self._end_evaluation()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The last line stays."""
        self._end_evaluation()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back. (Nothing is read from a GPU here: it may be what failed.)"""
        if self._screen and not self._screen.live and trainer.state.fn == TrainerFn.FITTING:
            self._screen.say(f"ended by {type(exception).__name__} after {self._step()}")
        self._close()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the terminal back."""
        self._close()

    def _open(self) -> None:
        self._began = self._stage_began = time.monotonic()
        self._looked = -math.inf
        if self._enabled:
            console = self._console or Console(stderr=True, force_terminal=sys.stderr.isatty())
            self._screen = Screen(console, self.plain_seconds)

    def _close(self) -> None:
        if self._screen:
            self._screen.close()
        self._screen = None

    def _start_evaluation(self, name: str, batches: float | Iterable[float]) -> None:
        if self.trainer.state.fn != TrainerFn.FITTING:
            self._open()
        self._name, self._batches, self._stage_began = name, 0, time.monotonic()
        total = batches if isinstance(batches, int | float) else sum(batches)
        self._total = int(total) if 0 < total < math.inf else None

    def _evaluated_batch(self) -> None:
        self._batches += 1
        if self._screen and self._screen.due(time.monotonic()):
            if self.trainer.state.fn != TrainerFn.FITTING:
                self._screen.show(self._evaluation())
            elif self._screen.live:
                self._screen.show(self._training(), self._evaluation())

    def _end_evaluation(self) -> None:
        if self._screen:
            self._screen.show(self._evaluation(ended=True))
        self._close()

    def _training(self, ended: bool = False) -> Line:
        """The line of a training, from what is known now."""
        step, since = self.trainer.global_step, f"since {_clock(time.monotonic() - self._began)}"
        done, left = [], []
        if self._steps:
            done.append(step / self._steps)
            left.append(self._pace.seconds(max(0, self._steps - step)))
        if self._timer:
            spent, remaining = self._timer.time_elapsed(), max(0.0, self._timer.time_remaining() or 0.0)
            since = f"{_clock(spent)} of {_clock(round(spent + remaining))}"
            done.append(spent / (spent + remaining))
            left.append(remaining)
        epoch = self.trainer.current_epoch + (not ended)  # the first is 1; when all is over, Lightning has counted it
        of = f"/{self.trainer.max_epochs}" if (self.trainer.max_epochs or 0) > 0 else ""
        metrics = [(name, v) for name, v in self.trainer.progress_bar_metrics.items() if name not in self._validated]
        tail = [Piece(3 if n == 0 else 10, f"{name} {_number(v)}") for n, (name, v) in enumerate(metrics)]
        latest = self._speed.latest if self._speed else {}
        tail += [Piece(rank, write(latest[name])) for name, (rank, write) in SPEEDS.items() if name in latest]
        tail += [] if ended or not left else [Piece(1, _eta(left), "cyan")]
        tail.append(Piece(6, since.replace("since", "in") if ended else since, "dim"))
        return Line([Piece(0, self._step(), "bold"), Piece(5, f"epoch {epoch}{of}")], max(done, default=None), tail)

    def _evaluation(self, ended: bool = False) -> Line:
        """The line of a validation, test or prediction."""
        seconds = time.monotonic() - self._stage_began
        of = f"/{self._total:,}" if self._total else ""
        tail = [Piece(3, f"{'in' if ended else 'since'} {_clock(seconds)}", "dim")]
        if self._total and not ended:
            left = seconds / self._batches * (self._total - self._batches)
            tail.insert(0, Piece(1, _eta([left]), "cyan"))
        done = self._batches / self._total if self._total else None
        return Line([Piece(0, f"{self._name} {self._batches:,}{of} batches", "bold")], done, tail)

    def _step(self) -> str:
        return f"step {self.trainer.global_step:,}" + (f"/{self._steps:,}" if self._steps else "")


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))


def _eta(left: list[float | None]) -> str:
    """The first end that comes, of those that are known."""
    known = [seconds for seconds in left if seconds is not None]
    return f"ETA {_clock(min(known))}" if known else "ETA -:--:--"


def _number(value: Any) -> str:
    return f"{value:#.4g}".rstrip(".") if isinstance(value, float) else str(value)


def _short(value: float) -> str:
    """1234 -> 1.2k."""
    for power, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= power:
            return f"{value / power:.1f}{letter}"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
