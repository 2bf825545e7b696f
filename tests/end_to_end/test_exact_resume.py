"""A training that is stopped anywhere goes on with exactly the batches it would have had."""

import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from training_run import steps_seen, train


def in_a_process(*arguments, **options):
    process = multiprocessing.get_context("fork").Process(target=train, args=arguments, kwargs=options)
    process.start()
    return process


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stops", [(5,), (3, 11), (8, 16), (8, 9, 20)])
def test_stopping_mid_epoch_at_its_end_and_in_later_epochs_changes_nothing(make_shards, tmp_path, workers, stops):
    shards = make_shards([11, 9, 10])  # 30 samples in batches of 4: 8 steps an epoch
    train(shards, tmp_path / "quiet", tmp_path / "quiet.log", 24, workers)
    for steps in (*stops, 24):
        stopped = train(shards, tmp_path / "stopped", tmp_path / "stopped.log", steps, workers)
    assert steps_seen(tmp_path / "stopped.log") == steps_seen(tmp_path / "quiet.log")
    quiet = torch.load(tmp_path / "quiet" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, quiet[name]) for name, value in stopped.state_dict().items())


@pytest.mark.slow
def test_twenty_kills_at_random_steps_lose_and_repeat_nothing(make_shards, tmp_path):
    shards = make_shards([31, 29, 40])
    steps, rng = 200, random.Random(0)
    train(shards, tmp_path / "quiet", tmp_path / "quiet.log", steps)
    log, kills = tmp_path / "killed.log", 0
    log.touch()
    while kills < 20:
        done = len(set(log.read_text().splitlines()))
        target = done + rng.randint(1, 9)
        process = in_a_process(shards, tmp_path / "killed", log, steps, workers=rng.choice([0, 1, 2]))
        while process.is_alive() and len(set(log.read_text().splitlines())) < target:
            time.sleep(0.002)
        time.sleep(rng.random() * 0.02)
        assert process.is_alive(), "the run ended before it was killed: give it more steps"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
    in_a_process(shards, tmp_path / "killed", log, steps).join()
    assert steps_seen(log) == steps_seen(tmp_path / "quiet.log")
    states = [torch.load(tmp_path / run / "last.ckpt", weights_only=True)["state_dict"] for run in ("quiet", "killed")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
