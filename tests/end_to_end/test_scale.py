"""A tokenizer trained by one process, by several, with sharded weights or on two machines is the same tokenizer."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import sharding, together

sys.path.insert(0, str(Path(__file__).parent))
from scale_run import STEPS, losses, train

from tasks.training.conversion import to_full, whole

pytestmark = [pytest.mark.slow, sharding]
# Their gradients are 0 (batch norm and softmax take out what they add), and Adam makes steps of the rounding.
ADRIFT = ("to_code.bias", "encoder.tokens.norm.bias", "attention.qkv.bias", "spread.running_mean")


def ranked(rank, *arguments, **options):
    train(*arguments, **options)


@pytest.fixture
def shards(make_shards):
    return make_shards([48, 52, 60])  # ten batches of 16 an epoch


@pytest.fixture
def alone(shards, tmp_path):
    """The run of one process, with checkpoints half way and at the end."""
    together(1, ranked, shards, tmp_path / "alone", save_at=[STEPS // 2])
    return tmp_path / "alone"


def load(path):
    return whole(path) if path.is_dir() else torch.load(path, weights_only=True)


def assert_same_run(folder, other, first=0):
    ours, theirs = losses(folder), losses(other)
    assert [*ours] == [*range(first, STEPS)]
    assert [*ours.values()] == pytest.approx([*theirs.values()][first:], rel=0, abs=1e-5)
    ours, theirs = load(folder / f"{STEPS}.ckpt"), load(other / f"{STEPS}.ckpt")
    for part in ("state_dict", "ema"):
        steady = [name for name in theirs[part] if not name.endswith(ADRIFT)]
        assert len(steady) > 20
        for name in steady:
            torch.testing.assert_close(ours[part][name], theirs[part][name], rtol=1e-3, atol=1e-4)


def test_ddp_and_sharded_runs_of_two_and_four_processes_are_the_run_of_one(shards, tmp_path, alone):
    assert losses(alone)[STEPS - 1] < 0.97 * losses(alone)[0]
    together(2, ranked, shards, tmp_path / "ddp2", "ddp", 2)
    together(4, ranked, shards, tmp_path / "ddp4", "ddp", 4)
    together(2, ranked, shards, tmp_path / "sharded2", "folder", 2)
    together(4, ranked, shards, tmp_path / "sharded4", "folder", 4, activation_checkpointing=True)
    for run in ("ddp2", "ddp4", "sharded2", "sharded4"):
        assert_same_run(tmp_path / run, alone)


@pytest.mark.parametrize("task", ["enat", "autonat"])
def test_synthesis_by_two_processes_is_that_of_one(shards, tmp_path, task):
    """Masks, dropped classes and reuse are drawn for all ranks together."""
    together(1, ranked, shards, tmp_path / "alone", kind=task)
    assert losses(tmp_path / "alone")[STEPS - 1] < 0.97 * losses(tmp_path / "alone")[0]
    together(2, ranked, shards, tmp_path / "ddp", "ddp", 2, kind=task)
    assert_same_run(tmp_path / "ddp", tmp_path / "alone")
    if task == "autonat":  # averages in shards cannot simulate an earlier step: the weights themselves do
        together(2, ranked, shards, tmp_path / "sharded", "folder", 2, kind=task)
        assert_same_run(tmp_path / "sharded", tmp_path / "alone")


def test_ranks_whose_last_batches_differ_agree_on_what_is_drawn_for_all(make_shards, tmp_path):
    together(2, ranked, make_shards([175]), tmp_path / "uneven", "folder", 2, kind="enat")
    assert len(losses(tmp_path / "uneven")) == STEPS


def test_synthesis_with_reuse_trains_in_shards(shards, tmp_path):
    together(2, ranked, shards, tmp_path / "sharded", "folder", 2, kind="enat")
    assert losses(tmp_path / "sharded")[STEPS - 1] < 0.97 * losses(tmp_path / "sharded")[0]


def test_a_resumed_sharded_run_is_the_uninterrupted_one_to_the_last_bit(shards, tmp_path):
    half = STEPS // 2
    together(2, ranked, shards, tmp_path / "quiet", "folder", 2, save_at=[half])
    together(2, ranked, shards, tmp_path / "resumed", "folder", 2, resume=str(tmp_path / f"quiet/{half}.ckpt"))
    quiet, resumed = losses(tmp_path / "quiet"), losses(tmp_path / "resumed")
    assert resumed == {step: quiet[step] for step in range(half, STEPS)}
    ours, theirs = (load(tmp_path / run / f"{STEPS}.ckpt") for run in ("resumed", "quiet"))
    for part in ("state_dict", "optimizer_states", "ema"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)


def test_one_process_to_sharded_ranks_and_back_is_the_run_of_one(shards, tmp_path, alone):
    half, later = STEPS // 2, STEPS - 5
    together(2, ranked, shards, tmp_path / "two", "folder", 2, stop_at=later, resume=str(alone / f"{half}.ckpt"))
    to_full(tmp_path / f"two/{later}.ckpt", tmp_path / "full.ckpt")
    together(1, ranked, shards, tmp_path / "back", resume=str(tmp_path / "full.ckpt"))
    assert_same_run(tmp_path / "back", alone, first=later)


def test_two_machines_that_meet_by_torchrun_are_one(shards, tmp_path, alone):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"shards": shards, "folder": str(tmp_path / "nodes"), "strategy": "folder", "nodes": 2}
    meet = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=scale", "--local-addr=127.0.0.1"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", *meet]
    script = [str(Path(__file__).with_name("scale_run.py")), json.dumps(settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    nodes = [subprocess.Popen([*command, *script], env=environment) for _ in range(2)]
    assert [node.wait(timeout=120) for node in nodes] == [0, 0]
    assert_same_run(tmp_path / "nodes", alone)
