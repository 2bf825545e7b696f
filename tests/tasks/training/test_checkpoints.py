"""Checkpoints are whole or absent, whatever happens while they are written."""

import logging
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging

sys.path.insert(0, str(Path(__file__).parents[2] / "end_to_end"))
from stoppable_run import Masked, SignalAt, differences, state, train

from mmmask.errors import RunFailed, Stopped, UserError
from tasks.training.checkpoints import Checkpoints
from tasks.training.ema import EMA
from tasks.training.finding import checked
from tasks.training.whole_files import WholeFiles

WRITER = """
import sys, torch
from pathlib import Path
from tasks.training.whole_files import WholeFiles
folder, size = Path(sys.argv[1]), int(sys.argv[2])
step = int(torch.load(folder / "last.ckpt", weights_only=True)["step"]) if (folder / "last.ckpt").exists() else 0
while True:
    step += 1
    content = {"step": step, "weights": torch.full((size // 4,), float(step))}
    WholeFiles().save_checkpoint(content, folder / "last.ckpt")
    print(step, flush=True)
"""


@pytest.fixture
def shards(make_shards):
    return make_shards([11, 9, 10])


@pytest.mark.slow
@pytest.mark.parametrize("other_disk", [True, False])
def test_check_1_twelve_kills_while_it_writes_leave_a_whole_checkpoint(tmp_path, other_disk):
    rng, size = random.Random(0), 400 * 2**20
    environment = {**os.environ, "TMPDIR": "/dev/shm" if other_disk else str(tmp_path)}
    kept = 0
    for _ in range(12):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(size)]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        process.stdout.readline()  # one is written, the next is under way
        time.sleep(rng.random())
        process.kill()
        process.communicate()
        content = torch.load(tmp_path / "last.ckpt", weights_only=True, mmap=True)
        assert (content["weights"] == content["step"]).all()
        assert content["step"] > kept
        kept = content["step"]


def test_what_a_killed_writer_left_is_swept_at_the_next_start(shards, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/.step-00000003.ckpt.tmp-123").write_bytes(b"half")
    (tmp_path / "checkpoints/.step-00000004.ckpt.tmp-123").mkdir()
    train(shards, tmp_path, max_steps=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["last.ckpt", "step-00000002.ckpt"]


class Disk:
    """No file of this process can grow beyond so many bytes, once it is full."""

    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, self.before[1]))

    def free(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        """Before pytest tells of the test, for its output may be a file too."""
        self.free()


@pytest.fixture
def disk():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    return Disk()


class Filling(SignalAt):
    def __init__(self, step, disk):
        super().__init__(step)
        self.disk = disk

    def count(self):
        self.seen += 1
        if self.seen == self.batch:
            self.disk.fill()


def test_check_2_a_full_disk_ends_the_run_with_the_old_checkpoint_untouched(shards, tmp_path, disk):
    with disk, pytest.raises(RunFailed) as failure:
        train(shards, tmp_path, Filling(6, disk), checkpoints={"every_n_steps": 4})
    assert f"cannot write {tmp_path}/checkpoints/step-00000008.ckpt: File too large (it takes 0.0 MiB, " in str(
        failure.value
    )
    assert "the checkpoint before is as it was" in str(failure.value)
    assert state(tmp_path)["global_step"] == 4
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["last.ckpt", "step-00000004.ckpt"]


def test_check_2_or_the_run_goes_on_without_it(shards, tmp_path, disk, caplog):
    saving = {"every_n_steps": 4, "when_full": "go_on"}
    with disk, caplog.at_level(logging.WARNING):
        trainer = train(shards, tmp_path, Filling(6, disk), checkpoints=saving)
    assert trainer.global_step == 24
    assert "The run goes on without this checkpoint." in caplog.text
    assert state(tmp_path)["global_step"] == 4


def test_the_best_and_the_last_and_every_so_many_are_kept(shards, tmp_path):
    values = iter([0.5, 0.3, 0.9])

    class Valued(Masked):
        def on_validation_epoch_end(self):
            self.log("val/value", next(values))

    saving = {"best": "val/value", "keep_every": 10}
    train(shards, tmp_path, model=Valued(), checkpoints=saving)
    names = {path.name: path.resolve().name for path in (tmp_path / "checkpoints").iterdir()}
    assert names["best.ckpt"] == "step-00000016.ckpt"
    assert names["last.ckpt"] == "step-00000024.ckpt"
    assert set(names) == {"best.ckpt", "last.ckpt", *(f"step-{n:08d}.ckpt" for n in (10, 16, 20, 24))}


def test_files_of_others_in_the_folder_are_let_alone(shards, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    others = ["step-00000002-good.ckpt", "step-backup.ckpt", "step-step=5.ckpt"]
    for name in others:
        (tmp_path / "checkpoints" / name).touch()
    train(shards, tmp_path, max_steps=4, checkpoints={"every_n_steps": 2})
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {*others, "last.ckpt", "step-00000004.ckpt"}


def test_a_best_that_could_not_be_written_does_not_cost_the_best_before(shards, tmp_path, disk):
    values = iter([0.5, 0.1, 0.7])

    class Valued(Masked):
        def on_validation_epoch_end(self):
            if self.global_step == 16:
                disk.fill()
            if self.global_step == 24:
                disk.free()
            self.log("val/value", next(values))

    with disk:
        train(shards, tmp_path, model=Valued(), checkpoints={"best": "val/value", "when_full": "go_on"})
    assert state(tmp_path, "best.ckpt")["global_step"] == 8
    assert state(tmp_path)["global_step"] == 24


def test_early_stopping_and_going_on_makes_all_steps_of_the_epoch(shards, tmp_path):
    class Stopping(SignalAt):
        def on_validation_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step == 3

    train(shards, tmp_path, Stopping(0), max_epochs=1, val_check_interval=3)
    assert state(tmp_path)["global_step"] == 3
    train(shards, tmp_path, max_epochs=1, val_check_interval=3)
    assert state(tmp_path)["global_step"] == 8


def test_several_steps_a_batch_do_not_step_over_a_checkpoint(shards, tmp_path):
    class Twice(Masked):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            for _ in range(3):
                self.optimizers().zero_grad()
                self.manual_backward(self.loss(batch))
                self.optimizers().step()

    train(shards, tmp_path, model=Twice(), checkpoints={"keep_every": 10}, max_epochs=1)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*"))
    assert kept == ["step-00000012.ckpt", "step-00000021.ckpt", "step-00000024.ckpt"]


def test_a_state_that_no_resume_would_read_is_told_at_the_first_checkpoint(shards, tmp_path):
    class Odd(Masked):
        def on_save_checkpoint(self, checkpoint):
            checkpoint["mine"] = Path("a")

    with pytest.raises(RunFailed, match=r"holds Python objects.*Have tasks and callbacks put plain values"):
        train(shards, tmp_path, model=Odd(), checkpoints={"every_n_steps": 2})
    assert not (tmp_path / "checkpoints/last.ckpt").exists()


def test_best_without_a_validation_is_refused(shards, tmp_path):
    with pytest.raises(UserError, match="checkpoints.best is 'val/loss', but nothing is validated"):
        train(shards, tmp_path, checkpoints={"best": "val/loss"}, limit_val_batches=0)


def test_the_best_stays_the_best_across_a_resume(shards, tmp_path):
    values = iter([0.5, 0.7, 0.6])

    class Valued(Masked):
        def on_validation_epoch_end(self):
            self.log("val/value", next(values))

    for stop in ([SignalAt(12)], []):
        train(shards, tmp_path, *stop, model=Valued(), checkpoints={"best": "val/value"})
    assert state(tmp_path, "best.ckpt")["global_step"] == 8


def test_a_metric_that_nobody_logs_is_named(shards, tmp_path):
    with pytest.raises(UserError, match="checkpoints.best is 'val/lost', but the validation logs train/loss, val/loss"):
        train(shards, tmp_path, checkpoints={"best": "val/lost"})


def test_checkpoints_come_by_the_clock(shards, tmp_path):
    saved = []

    class Watching(Checkpoints):
        def _save(self, trainer):
            super()._save(trainer)
            saved.append(trainer.global_step)

    class Slow(Masked):
        def training_step(self, batch, batch_idx):
            time.sleep(0.02)
            return super().training_step(batch, batch_idx)

    train(shards, tmp_path, Watching(every_minutes=0.1 / 60), model=Slow(), checkpoints=None)
    assert 2 <= len(saved) < 24


class SignalWhileSaving(WholeFiles):
    sent = False

    def save_checkpoint(self, *arguments, **options):
        if not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGTERM)
        super().save_checkpoint(*arguments, **options)


def test_check_24_a_signal_while_it_saves_is_heard_after_the_next_step(shards, tmp_path):
    trainer = train(shards, tmp_path, checkpoints={"every_n_steps": 5}, plugins=[SignalWhileSaving()])
    assert trainer.global_step == 6
    assert state(tmp_path)["global_step"] == 6


@pytest.mark.parametrize("stage", ["training", "validation"])
def test_check_24_a_second_signal_ends_the_run_at_once(shards, tmp_path, stage):
    class Twice(SignalAt):
        def count(self):
            self.seen += 1
            if self.seen in (self.batch, self.batch + 1):
                os.kill(os.getpid(), signal.SIGTERM)

    twice = Twice(3, stage)
    if stage == "training":  # both within one step
        twice.count = lambda: [os.kill(os.getpid(), signal.SIGTERM) for _ in range(2)]
    trainer = train(shards, tmp_path, twice, checkpoints={"every_n_steps": 2})
    assert trainer.global_step == (0 if stage == "training" else 8)


def test_signals_belong_to_whom_they_belonged_after_the_run(shards, tmp_path):
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    train(shards, tmp_path, max_steps=2)
    train(shards, tmp_path, SignalAt(1))
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize("where", ["in a step", "between steps", "in a validation"])
def test_an_error_leaves_a_checkpoint_from_which_the_run_is_the_same(shards, tmp_path, where):
    class Failing(Masked):
        broken = True

        def training_step(self, batch, batch_idx):
            if self.broken and where == "in a step" and self.global_step == 7:
                raise RuntimeError("a bug")
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch, batch_idx):
            if self.broken and where == "in a validation" and self.global_step == 8 and batch_idx == 3:
                raise RuntimeError("a bug")
            super().validation_step(batch, batch_idx)

    class Loader(SignalAt):
        def on_train_start(self, trainer, *_):
            def fail():
                if Failing.broken and where == "between steps" and trainer.global_step == 7:
                    raise RuntimeError("a bug")

            trainer.fit_loop._data_fetcher._start_profiler = fail
            trainer.fit_loop.epoch_loop._on_before_fetch = fail

    train(shards, tmp_path / "quiet")
    Failing.broken = True
    torch.manual_seed(0)
    with pytest.raises(RuntimeError, match="a bug"):
        train(shards, tmp_path / "run", Loader(0), model=Failing(), checkpoints={"every_n_steps": 4})
    expected = {"in a step": 4, "between steps": 7, "in a validation": 8}[where]
    assert state(tmp_path / "run")["global_step"] == expected
    Failing.broken = False
    train(shards, tmp_path / "run", Loader(0), model=Failing())
    assert differences(state(tmp_path / "run")["state_dict"], state(tmp_path / "quiet")["state_dict"]) == []


def test_check_8_a_checkpoint_with_averages_is_not_resumed_without(shards, tmp_path):
    train(shards, tmp_path, max_steps=3)
    with pytest.raises(UserError, match="averages none: list the callback EMA"):
        train(shards, tmp_path, max_steps=5, ema=False)
    train(shards, tmp_path / "none", max_steps=3, ema=False)
    with pytest.raises(UserError, match="was trained without EMA"):
        train(shards, tmp_path / "none", max_steps=5, ema=True)


def test_check_8_nor_is_one_of_lightnings_own_averages(shards, tmp_path):
    train(shards, tmp_path, EMAWeightAveraging(decay=0.9), max_steps=3, ema=False)
    with pytest.raises(UserError, match="averages none"):
        train(shards, tmp_path, max_steps=5, ema=False)


def test_check_15_hyperparameters_in_a_checkpoint_call_nothing(tmp_path):
    opened = tmp_path / "opened"
    content = {
        "state_dict": {},
        "loops": {},
        "global_step": 0,
        "hyper_parameters": {"_instantiator": "os.system", "a": f"touch {opened}"},
    }
    torch.save(content, tmp_path / "a.ckpt")
    assert checked(tmp_path / "a.ckpt").step == 0
    assert not opened.exists()


def test_averages_are_what_is_validated_and_what_a_user_gets(shards, tmp_path):
    model = Masked()
    ema = EMA(0.5)
    train(shards, tmp_path, ema, model=model, max_steps=4, ema=False, limit_val_batches=0)
    content = state(tmp_path)
    assert differences(dict(content["state_dict"]), dict(model.state_dict())) == []
    assert set(content["ema"]) == set(content["state_dict"])
    assert differences(dict(content["ema"]), dict(content["state_dict"])) != []


def test_the_average_is_the_running_mean_of_the_formula_which_forgets_the_beginning_soon(shards, tmp_path):
    seen = []

    class Watched(Masked):
        def on_train_batch_start(self, batch, batch_idx):
            seen.append(self.net[0].bias.detach().clone())

        def on_train_end(self):
            seen.append(self.net[0].bias.detach().clone())

    train(shards, tmp_path, EMA(0.3), model=Watched(), max_steps=4, ema=False, limit_val_batches=0)
    expected = seen[0]
    for weights, kept in zip(seen[1:], (2 / 11, 3 / 12, 0.3, 0.3), strict=True):
        expected = kept * expected + (1 - kept) * weights
    torch.testing.assert_close(state(tmp_path)["ema"]["net.0.bias"], expected)


def test_stopped_says_by_what(tmp_path):
    assert Stopped(signal.SIGTERM).exit_code == 143
    assert Stopped(signal.SIGINT).exit_code == 130
    assert str(Stopped(signal.SIGTERM, at_once=True)) == "stopped by SIGTERM at once"
