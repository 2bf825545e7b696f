"""A training that is stopped anywhere and goes on is, bit for bit, the training that was not stopped."""

import csv
import signal
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from stoppable_run import Masked, SignalAt, differences, state, train

from tasks.training.run_folder import Metrics

SETTINGS = {
    "plain": {},
    "accumulating": {"accumulate_grad_batches": 3},
    "validating within epochs": {"val_check_interval": 3, "accumulate_grad_batches": 2},
    "validating every second epoch": {"check_val_every_n_epoch": 2},
    "by steps alone": {"max_epochs": -1, "max_steps": 20, "val_check_interval": 5, "check_val_every_n_epoch": None},
    "without validation": {"limit_val_batches": 0},
    "short epochs": {"limit_train_batches": 6, "gradient_clip_val": 1.0},
}


@pytest.fixture
def shards(make_shards):
    """30 samples: 8 steps of 4 an epoch."""
    return make_shards([11, 9, 10])


def what_counts(folder):
    """All of a last checkpoint that the rest of the run depends on."""
    content = state(folder)
    names = ("state_dict", "ema", "optimizer_states", "lr_schedulers", "global_step", "epoch")
    loader = content["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    return {**{name: content[name] for name in names}, "loader": loader}


def rows(folder):
    with open(Path(folder) / "metrics.csv", newline="") as stream:
        return [sorted((k, v) for k, v in row.items() if v) for row in csv.DictReader(stream)]


def logged(folder):
    """The options of a run whose metrics.csv goes on from its last checkpoint."""
    last = Path(folder) / "checkpoints" / "last.ckpt"
    return {"logger": [Metrics(Path(folder), state(folder)["global_step"] if last.exists() else 0)]}


def compare(shards, tmp_path, stops, **options):
    """Run once quietly and once with these stops, each in a segment of its own; both must be the same."""
    train(shards, tmp_path / "quiet", **logged(tmp_path / "quiet"), **options)
    for stop in (*stops, ()):
        train(shards, tmp_path / "stopped", *stop, **logged(tmp_path / "stopped"), **options)
    assert differences(what_counts(tmp_path / "stopped"), what_counts(tmp_path / "quiet")) == []
    assert rows(tmp_path / "stopped") == rows(tmp_path / "quiet")


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize(("stage", "batch"), [("training", 5), ("training", 8), ("validation", 2)])
def test_check_3_stopped_twice_and_resumed_it_is_the_same_run(shards, tmp_path, settings, stage, batch):
    compare(shards, tmp_path, [[SignalAt(batch, stage)], [SignalAt(3)]], **SETTINGS[settings])


@pytest.mark.parametrize("batch", [2, 9])
@pytest.mark.parametrize("settings", ["plain", "validating within epochs"])
def test_the_best_found_in_a_validation_that_was_caught_up_with_is_kept(shards, tmp_path, settings, batch):
    class Crash(SignalAt):
        def count(self):
            raise RuntimeError("right after the validation")

    options, run = {**SETTINGS[settings], "checkpoints": {"best": "val/loss"}}, tmp_path / "stopped"
    train(shards, run, SignalAt(batch, "validation"), **logged(run), **options)
    with pytest.raises(RuntimeError, match="right after"):
        train(shards, run, Crash(0), **logged(run), **options)
    train(shards, run, **logged(run), **options)
    train(shards, tmp_path / "quiet", **logged(tmp_path / "quiet"), **options)
    assert differences(what_counts(run), what_counts(tmp_path / "quiet")) == []
    assert rows(run) == rows(tmp_path / "quiet")
    steps = {state(tmp_path / name, "best.ckpt")["global_step"] for name in ("quiet", "stopped")}
    assert len(steps) == 1


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("workers", [0, 2])
def test_check_3_wherever_it_is_stopped(shards, tmp_path, settings, workers):
    options = {**SETTINGS[settings], "workers": workers}
    train(shards, tmp_path / "quiet", **logged(tmp_path / "quiet"), **options)
    places = [("training", n) for n in (1, 2, 3, 6, 7, 8, 9, 12, 16)]
    places += [("validation", n) for n in (1, 8, 9, 16)]
    for stage, batch in places:
        folder = tmp_path / f"{stage}-{batch}"
        for stop in ([SignalAt(batch, stage)], [SignalAt(3)], []):
            train(shards, folder, *stop, **logged(folder), **options)
        assert differences(what_counts(folder), what_counts(tmp_path / "quiet")) == [], (stage, batch)
        assert rows(folder) == rows(tmp_path / "quiet"), (stage, batch)


def test_any_checkpoint_kept_on_the_way_leads_to_the_same_end(shards, tmp_path):
    train(shards, tmp_path / "run", checkpoints={"keep_every": 3})
    quiet = what_counts(tmp_path / "run")
    checkpoints = tmp_path / "run/checkpoints"
    assert sorted(path.name for path in checkpoints.glob("step-*")) == [f"step-{n:08d}.ckpt" for n in range(3, 25, 3)]
    for step in (3, 9, 15, 18):
        (checkpoints / "last.ckpt").unlink()
        (checkpoints / "last.ckpt").symlink_to(f"step-{step:08d}.ckpt")
        train(shards, tmp_path / "run", checkpoints={"keep_every": 3})
        assert differences(what_counts(tmp_path / "run"), quiet) == [], step


def test_a_run_without_average_is_exact_too(shards, tmp_path):
    train(shards, tmp_path / "quiet", ema=False)
    for stop in ([SignalAt(10)], []):
        train(shards, tmp_path / "stopped", *stop, ema=False)
    quiet, stopped = state(tmp_path / "quiet"), state(tmp_path / "stopped")
    assert differences(stopped["state_dict"], quiet["state_dict"]) == []
    assert "ema" not in quiet


def test_check_4_resuming_a_finished_run_changes_nothing_and_a_longer_one_goes_on(shards, tmp_path):
    train(shards, tmp_path / "long", max_epochs=5)
    train(shards, tmp_path / "short", max_epochs=3)
    finished = (tmp_path / "short/checkpoints/last.ckpt").read_bytes()
    train(shards, tmp_path / "short", max_epochs=3)
    assert (tmp_path / "short/checkpoints/last.ckpt").read_bytes() == finished
    train(shards, tmp_path / "short", max_epochs=4, model=None)
    assert state(tmp_path / "short")["global_step"] == 32


def test_check_5_masks_are_drawn_anew_at_each_step_and_alike_in_each_validation(shards, tmp_path):
    drawn = {True: [], False: []}

    class Drawing(Masked):
        def loss(self, batch):
            drawn[self.training].append(tuple(torch.rand(3).tolist()))
            return super().loss(batch)

    train(shards, tmp_path / "run", model=Drawing())
    assert len(set(drawn[True])) == len(drawn[True]) == 24
    assert drawn[False][:8] == drawn[False][8:16] == drawn[False][16:]
    assert len(set(drawn[False])) == 8


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_a_checkpoint_of_the_step_under_way(shards, tmp_path, signum):
    train(shards, tmp_path / "run", SignalAt(6, signum=signum))
    assert state(tmp_path / "run")["global_step"] == 6
