"""Progress: Trainer(callbacks=[Speed(), Progress()]) -> step 1,234/10,000  ━━━━━  train/mse 0.0071  ETA 0:12:33."""

import io
import logging
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import timer
from rich.console import Console
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from tasks.training import progress, screen, speed
from tasks.training.progress import Pace, Progress
from tasks.training.speed import Speed

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{words}")
    for words in ("You defined a `validation_step`", "predict returned None", "You're resuming from a checkpoint")
]


class Clock:
    """Time that passes when the test says so (and a nanosecond each time it is read)."""

    def __init__(self):
        self.now = 0.0

    def sleep(self, seconds):
        self.now += seconds

    def monotonic(self):
        self.now += 1e-9
        return self.now

    perf_counter = monotonic


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    for module in (progress, screen, speed, timer):
        monkeypatch.setattr(module, "time", clock)
    return clock


class Model(LightningModule):
    """A step takes a second, the validation of a batch three."""

    fails_at = None

    def __init__(self, clock, step=1.0):
        super().__init__()
        self.clock, self.step = clock, step
        self.layer = nn.Linear(4, 1)

    def training_step(self, batch, batch_idx):
        self.clock.sleep(self.step)
        if batch_idx == self.fails_at:
            raise RuntimeError("out of memory")
        loss = self.layer(batch).square().mean()
        self.log("train/loss", 0.25 + 0 * loss, prog_bar=True)
        self.log("train/hidden", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.clock.sleep(3 * self.step)
        self.log("val/loss", 0.5, prog_bar=True, batch_size=2)

    def test_step(self, batch, batch_idx):
        self.clock.sleep(self.step)

    predict_step = test_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def batches(count):
    return DataLoader(torch.ones(2 * count, 4), batch_size=2)


class Stream(IterableDataset):
    """Five batches, but nobody knows."""

    def __iter__(self):
        yield from torch.ones(10, 4)


class Shown:
    """What a console was given, on a terminal of some width or on none."""

    def __init__(self, width=120, terminal=True):
        self.file = io.StringIO()
        self.console = Console(file=self.file, force_terminal=terminal, width=width, _environ={"TERM": "xterm"})

    @property
    def raw(self):
        return self.file.getvalue()

    @property
    def frames(self):
        """The lines as they were drawn, one over the other."""
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.raw)
        return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def run(model, shown, verb="fit", train=None, val=None, callbacks=(), ckpt=None, plain_seconds=15.0, **options):
    bar = Progress(console=shown.console, plain_seconds=plain_seconds)
    options = {"log_every_n_steps": 2, "limit_val_batches": None if val else 0, "num_sanity_val_steps": 0, **options}
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[Speed(), bar, *callbacks],
        **options,
    )
    train = batches(8) if train is None else train
    loaders = (train, val) if verb == "fit" else (batches(8),)
    getattr(trainer, verb)(model, *loaders, ckpt_path=ckpt)
    return trainer


def test_one_line_tells_all_of_a_run(clock):
    shown = Shown()
    run(Model(clock, step=0.05), shown, max_epochs=15, train=batches(80))
    middle = next(frame for frame in shown.frames if frame.startswith("step 60"))
    assert re.fullmatch(
        r"step 60\d/1,200  epoch 8/15  ━+[╸╺]?━*  train/loss 0.2500  40 samples/s  \d.\d GiB  "
        r"ETA 0:00:(29|30)  since 0:00:30",
        middle,
    )
    assert re.fullmatch(
        r"step 1,200/1,200  epoch 15/15  ━+  train/loss 0.2500  40 samples/s  \d.\d GiB  in 0:01:00", shown.frames[-1]
    )
    assert "hidden" not in shown.raw


@pytest.mark.parametrize("width", [8, 20, 30, 40, 60, 80, 100, 200])
def test_the_line_fits_any_width_and_keeps_what_matters_most(clock, width):
    shown = Shown(width)
    run(Model(clock), shown, max_epochs=2, val=batches(4))
    lines = [frame for frame in shown.frames if "validation at" not in frame]
    assert max(len(frame) for frame in lines) <= width
    assert any(frame.startswith("step 3/16" if width > 8 else "step 3/…") for frame in lines)
    assert any("ETA" in frame for frame in lines) == (width >= 30)
    assert any("train/loss" in frame for frame in lines) == (width >= 60)
    assert any("━━━━━" in frame for frame in lines) == (width >= 30)


@pytest.mark.parametrize(
    ("options", "begin", "end"),
    [
        ({"max_steps": 6}, "step 0/6  epoch 1  ━+  ETA -:--:--", "step 6/6  epoch 1  .*in 0:00:06"),
        ({"max_epochs": 2}, "step 0/16  epoch 1/2  ━+  ETA -:--:--", "step 16/16  epoch 2/2  .*in 0:00:16"),
        ({"max_time": {"seconds": 9}}, "step 0  epoch 1  .*ETA 0:00:09", "step 9  epoch 2  .*  0:00:09 of 0:00:09"),
        ({"max_steps": 99, "max_time": {"seconds": 9}}, "step 0/99 .*ETA 0:00:09", "step 9/99 .*0:00:09 of 0:00:09"),
        ({"max_epochs": 3, "limit_train_batches": 2}, "step 0/6 ", "step 6/6  epoch 3/3 "),
        ({"max_epochs": 2, "accumulate_grad_batches": 3}, "step 0/6 ", "step 6/6 "),
        ({"fast_dev_run": True}, "step 0/1 ", "step 1/1 "),
    ],
    ids=str,
)
def test_the_end_is_what_the_trainer_was_given(clock, options, begin, end):
    shown = Shown()
    options = {"max_epochs": -1, **options} if "max_time" in options else options
    run(Model(clock), shown, **options)
    assert re.match(begin, shown.frames[0])
    assert re.match(end, shown.frames[-1])
    assert not re.search(r"-[12]|inf|nan", " ".join(shown.frames))


def test_a_run_without_a_known_end_has_no_bar_and_no_eta(clock):
    shown = Shown()
    run(Model(clock), shown, max_epochs=3, train=DataLoader(Stream(), batch_size=2))
    assert shown.frames[0] == "step 0  epoch 1/3  since 0:00:00"
    assert shown.frames[-1].startswith("step 15  epoch 3/3  train/loss 0.2500")
    assert not re.search(r"-[12]|inf|nan|ETA|━", shown.raw)


def test_a_validation_has_a_bar_below_and_leaves_its_results(clock):
    shown = Shown()
    run(Model(clock), shown, max_epochs=2, val=batches(4))
    assert any(re.match(r"validation 3/4 batches  ━.*ETA 0:00:03  since 0:00:09", frame) for frame in shown.frames)
    kept = [frame for frame in shown.frames if frame.startswith("validation at")]
    assert kept == [f"validation at step {step}  val/loss 0.5000  in 0:00:12" for step in (8, 16)]
    assert shown.frames[-1].startswith("step 16/16")
    assert "val/loss" not in shown.frames[-1]


def test_sanity_checking_is_silent(clock):
    shown = Shown()
    run(Model(clock), shown, max_steps=2, val=batches(4), num_sanity_val_steps=2)
    assert shown.frames[0].startswith("step 0/2")
    assert "validation" not in shown.raw


def test_a_continued_run_says_where(clock, tmp_path):
    first = run(Model(clock), Shown(), max_steps=5)
    first.save_checkpoint(tmp_path / "last.ckpt")
    shown = Shown()
    run(Model(clock), shown, max_steps=12, ckpt=tmp_path / "last.ckpt")
    assert shown.frames[0] == "continuing after step 5/12"
    assert shown.frames[1].startswith("step 5/12")


def test_without_a_terminal_there_is_a_line_now_and_then(clock):
    shown = Shown(terminal=False)
    run(Model(clock), shown, max_epochs=1, train=batches(100), val=batches(4), val_check_interval=50)
    lines = shown.raw.splitlines()
    assert "\x1b" not in shown.raw
    assert "\r" not in shown.raw
    assert "━" not in shown.raw
    assert [re.split(" {2}|/", line)[0] for line in lines] == [
        *("step 15", "step 30", "step 45", "validation at step 50", "step 51"),
        *("step 66", "step 81", "step 96", "validation at step 100", "step 100"),
    ]
    assert re.fullmatch(
        r"step 66/100  epoch 1/1  train/loss 0.2500  2 samples/s  \d.\d GiB  ETA 0:00:4\d  since 0:01:18", lines[5]
    )


@pytest.mark.parametrize("verb", ["test", "validate", "predict"])
def test_other_verbs_have_a_bar_over_batches_and_one_line_without_a_terminal(clock, verb):
    name = {"test": "test", "validate": "validation", "predict": "prediction"}[verb]
    shown, plain = Shown(), Shown(terminal=False)
    run(Model(clock), shown, verb, limit_val_batches=None)
    assert re.fullmatch(rf"{name} 3/8 batches  ━.*  ETA 0:00:(05|15)  since 0:00:0[39]", shown.frames[2])
    assert re.fullmatch(rf"{name} 8/8 batches  ━+  in 0:00:(08|24)", shown.frames[-1])
    run(Model(clock, step=0.1), plain, verb, limit_val_batches=None)
    assert re.fullmatch(rf"{name} 8/8 batches  in 0:00:0[02]\n", plain.raw)


def test_metrics_are_read_four_times_a_second_at_most(clock, monkeypatch):
    reads, line = [], Progress._training
    monkeypatch.setattr(Progress, "_training", lambda bar, ended=False: reads.append(clock.now) or line(bar, ended))
    run(Model(clock, step=0.01), Shown(), max_epochs=1, train=batches(200))
    assert 6 <= len(reads) <= 2 + 2.0 / 0.25
    shown = Shown()
    run(Model(clock, step=0.01), shown, "test")
    assert len(set(shown.frames)) == 1


@pytest.mark.parametrize("terminal", [True, False])
def test_an_error_gives_the_terminal_back(clock, terminal):
    shown, model, before = Shown(terminal=terminal), Model(clock), (sys.stdout, sys.stderr)
    model.fails_at = 3
    with pytest.raises(RuntimeError, match="out of memory"):
        run(model, shown, max_epochs=1)
    assert shown.raw.count("\x1b[?25l") == shown.raw.count("\x1b[?25h") == int(terminal)  # cursor hidden and shown
    assert (sys.stdout, sys.stderr) == before
    if not terminal:
        assert shown.raw == "ended by RuntimeError after step 3/8\n"


def test_log_messages_and_prints_appear_above_the_line(clock, monkeypatch, capsys):
    class Talking(Model):
        def training_step(self, batch, batch_idx):
            if batch_idx == 4:
                logging.getLogger("talking").warning("a message")
                print("a word", file=sys.stderr)
                print("a result")
            return super().training_step(batch, batch_idx)

    handler = logging.StreamHandler(sys.stderr)
    monkeypatch.setattr(logging.getLogger("talking"), "handlers", [handler])
    shown = Shown()
    run(Talking(clock), shown, max_epochs=1)
    assert {"a message", "a word"} < set(shown.frames)
    assert handler.stream is sys.stderr
    assert capsys.readouterr().out == "a result\n"  # stdout is a pipe here: results go through


@pytest.mark.parametrize("variables", [{"FORCE_COLOR": "1"}, {"TERM": "dumb"}])
def test_stderr_is_no_terminal_by_wish(clock, monkeypatch, capsys, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: "TERM" in variables, raising=False)
    by_default = SimpleNamespace(console=None)
    run(Model(clock), by_default, max_epochs=1, train=batches(20))
    out, errors = capsys.readouterr()
    assert not out
    assert "\x1b" not in errors
    assert [line.split("  ")[0] for line in errors.splitlines() if "step" in line] == ["step 15/20", "step 20/20"]


def test_other_ranks_and_a_disabled_bar_are_silent(clock, monkeypatch):
    shown = Shown()
    monkeypatch.setattr(Progress, "enable", lambda bar: None)
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    run(Model(clock), shown, max_epochs=1, val=batches(2))
    run(Model(clock), shown, "test")
    assert not shown.raw


def test_the_time_that_is_left_holds_the_validations(clock):
    pace, now = Pace(), 100.0
    pace.at(now, 1)
    for step in range(2, 22):
        pace.at(now := now + 1.0, step)
        if step in (11, 21):
            pace.validated(10.0, step)
            now += 10.0
    assert pace.seconds(100) == pytest.approx(200.0)


def test_the_time_that_is_left_follows_the_recent_speed():
    pace, now = Pace(), 0.0
    assert pace.seconds(5) is None
    for step in range(1000):
        pace.at(now := now + (1.0 if step < 700 else 0.5), step)
    assert pace.seconds(100) == pytest.approx(50.0)
