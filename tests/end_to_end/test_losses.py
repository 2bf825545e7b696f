"""A process that is lost ends the run within seconds, by name, and the run goes on from its last checkpoint."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from stoppable_run import differences

pytestmark = pytest.mark.slow
TASK = """
import os, signal, time
import lightning.pytorch as pl, torch
from datamodules import Array

class Slow(pl.LightningModule):
    def __init__(self, seconds: float = 0.05, poisoned_rank: int = -1):
        super().__init__()
        self.seconds, self.poisoned_rank, self.net = seconds, poisoned_rank, torch.nn.Linear(4, 4)
    def training_step(self, batch, batch_idx):
        time.sleep(self.seconds)
        poison = float("nan") if self.global_rank == self.poisoned_rank and self.global_step == 7 else 1.0
        tokens = batch["tokens"].float()
        return poison * self.net(tokens * (torch.rand_like(tokens) < 0.5)).square().mean()
    def validation_step(self, batch, batch_idx):
        time.sleep(self.seconds)
        self.log("val/x", self.net(batch["tokens"].float()).mean(), sync_dist=True)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6)

class Uneven(pl.LightningDataModule):
    def loader(self, count):
        def batch(rows):
            return {"tokens": torch.stack(rows)}
        return torch.utils.data.DataLoader(torch.ones(count, 4), batch_size=1, collate_fn=batch)
    def train_dataloader(self):
        return self.loader(10)
    def val_dataloader(self):
        return self.loader(3 + 4 * self.trainer.global_rank)

class Treacherous(Array):
    def __init__(self, field: str = "npy", end: str = "", at: int = 0):
        super().__init__(field)
        self.end, self.at = end, at
    def read(self, content, rng):
        array = super().read(content, rng)
        if array[0] == self.at and torch.utils.data.get_worker_info():
            if self.end == "exit":
                os._exit(7)
            if self.end == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.end == "raise":
                raise ValueError("unreadable")
            if self.end == "hang":
                time.sleep(1000)
        return array
"""


class Run:
    """`mmmask fit` of a tiny slow task as a process of its own."""

    def __init__(self, folder, shards, *arguments, reader=None, python=(), environment=None, **data):
        folder.mkdir(exist_ok=True)
        (folder / "slow_task.py").write_text(TASK)
        config = {
            "trainer": {
                "accelerator": "cpu",
                "max_steps": 400,
                "log_every_n_steps": 10,
                "default_root_dir": str(folder / "runs"),
            },
            "model": {"class_path": "slow_task.Slow"},
            "checkpoints": {"every_n_steps": 5},
            "data": {
                "class_path": "ShardData",
                "init_args": {
                    "train": shards,
                    "batch_size": 2,
                    "modalities": {"tokens": {"class_path": "slow_task.Treacherous", "init_args": reader or {}}},
                    **data,
                },
            },
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        self.folder = folder / "runs/run-1"
        program = list(python) or [sys.executable]
        command = [*program, "-m", "mmmask.cli", "fit", "--config", str(folder / "config.yaml"), *arguments]
        everything = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", **(environment or {})}
        self.errors = folder / "errors"
        with open(self.errors, "a") as stream:
            self.process = subprocess.Popen(
                command, env=everything, stderr=stream, stdout=subprocess.DEVNULL, start_new_session=True
            )

    def step(self):
        last = self.folder / "checkpoints/last.ckpt"
        return int(last.resolve().stem[5:]) if last.exists() else 0

    def wait_for_step(self, step, seconds=90):
        until = time.monotonic() + seconds
        while self.step() < step and self.process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        assert self.step() >= step, self.errors.read_text()[-2000:]

    def end(self, seconds):
        """The exit code and the last line; it must have come within so many seconds."""
        began = time.monotonic()
        code = self.process.wait(timeout=90)
        assert time.monotonic() - began < seconds
        text = self.errors.read_text()
        assert "Traceback" not in text, text[-3000:]
        return code, [line for line in text.splitlines() if line.startswith("mmmask")][-1]

    def children(self):
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout.split()
        return [int(pid) for pid in found]

    def left(self, seconds=5):
        """Processes of this run that are still there after so many seconds."""
        until = time.monotonic() + seconds
        while True:
            command = ["ps", "-eo", "pgid=,stat=,args="]
            lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
            found = [line for line in lines if line.split()[0] == str(self.process.pid) and line.split()[1][0] != "Z"]
            if not found or time.monotonic() > until:
                return found
            time.sleep(0.05)


@pytest.fixture
def shards(make_shards):
    return make_shards([31, 29, 40])


@pytest.mark.parametrize(("end", "words"), [("exit", "ended with exit code 7"), ("kill", "was killed by SIGKILL")])
def test_check_22_a_lost_loading_worker_is_named_with_what_it_read(shards, tmp_path, end, words):
    run = Run(tmp_path / "a", shards, reader={"end": end, "at": 17}, num_workers=2)
    code, line = run.end(60)
    assert code == 1
    found = re.search(
        r"loading worker [12] of 2 \(process \d+\) (.*) while it read shard (\S+): sample (.*)\. Go on", line
    )
    assert found, line
    assert (found[1], found[3]) == (words, "'000017'")
    assert found[2].endswith("train-00000.tar")


def test_check_22_an_error_in_a_worker_names_shard_and_key(shards, tmp_path):
    code, line = Run(tmp_path / "a", shards, reader={"end": "raise", "at": 17}, num_workers=2).end(60)
    assert code == 2
    assert line.endswith("train-00000.tar: sample '000017': unreadable")


def test_check_22_a_worker_that_hangs_is_given_up(shards, tmp_path):
    code, line = Run(tmp_path / "a", shards, reader={"end": "hang", "at": 17}, num_workers=2, timeout=2).end(60)
    assert code == 1
    assert "DataLoader timed out after 2" in line


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_check_23_a_lost_rank_ends_the_run_by_name(shards, tmp_path, signum):
    run = Run(tmp_path / "a", shards, "--trainer.devices=2", "--trainer.strategy=ddp")
    run.wait_for_step(5)
    (child,) = run.children()
    os.kill(child, signum)
    code, line = run.end(15)
    if signum == signal.SIGTERM:  # one rank was asked, all stop with a checkpoint
        assert (code, "go on with: mmmask resume" in line) == (143, True)
    else:
        assert code == 1
        assert f"rank 1 (process {child}) was killed by {signal.Signals(signum).name}" in line
    assert run.left() == []


def test_check_20_nan_on_one_rank_ends_all_and_names_it(shards, tmp_path):
    options = ["--trainer.devices=2", "--trainer.strategy=ddp", "--model.init_args.poisoned_rank=1"]
    run = Run(tmp_path / "a", shards, *options)
    code, line = run.end(60)
    assert code == 1
    assert "step 7 is not finite (rank 1: the batch is finite, the loss is nan; samples " in line
    assert (run.step(), run.left()) == (5, [])
    assert [path.name for path in run.folder.glob("not-finite*")] == ["not-finite-step-7-rank-1.pt"]


def test_check_23_the_other_ranks_end_with_the_first(shards, tmp_path):
    run = Run(tmp_path / "a", shards, "--trainer.devices=2", "--trainer.strategy=ddp")
    run.wait_for_step(5)
    run.process.kill()
    run.process.wait()
    assert run.left() == []


@pytest.mark.parametrize(("signum", "expected"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("ranks", [1, 2])
def test_check_24_and_25_a_signal_ends_all_ranks_at_one_step(shards, tmp_path, signum, expected, ranks):
    run = Run(tmp_path / "a", shards, f"--trainer.devices={ranks}", "--trainer.strategy=auto", num_workers=1)
    run.wait_for_step(10)
    (os.killpg if signum == signal.SIGINT else os.kill)(run.process.pid, signum)
    code, line = run.end(10)
    assert (code, line) == (
        expected,
        f"mmmask: stopped by {signum.name}; go on with: mmmask resume {run.folder}",
    )
    content = torch.load(run.folder / "checkpoints/last.ckpt", weights_only=True)
    assert content["global_step"] >= 10
    assert run.left() == []


def test_ranks_with_different_numbers_of_validation_batches_do_not_wait_for_each_other(shards, tmp_path):
    uneven = ["--data=slow_task.Uneven", "--trainer.max_steps=30", "--trainer.use_distributed_sampler=false"]
    run = Run(tmp_path / "a", shards, "--trainer.devices=2", "--trainer.strategy=ddp", *uneven)
    assert run.process.wait(timeout=60) == 0
    assert run.left() == []


def test_a_second_signal_ends_a_run_that_hangs_in_foreign_code(shards, tmp_path):
    run = Run(tmp_path / "a", shards, "--trainer.devices=2", "--trainer.strategy=ddp")
    run.wait_for_step(5)
    (child,) = run.children()
    os.kill(child, signal.SIGSTOP)  # rank 0 waits for it within gloo
    time.sleep(1)
    for _ in range(2):
        run.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
    assert run.process.wait(timeout=30) == 143
    assert run.left() == []


def test_a_resume_while_it_runs_is_refused_and_touches_nothing(shards, tmp_path):
    run = Run(tmp_path / "a", shards, "--trainer.log_every_n_steps=1")
    run.wait_for_step(10)
    command = [sys.executable, "-m", "mmmask.cli", "resume", str(run.folder)]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "a"), "OMP_NUM_THREADS": "1"}
    second = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert second.returncode == 2
    assert "another process is writing into" in second.stderr
    run.process.send_signal(signal.SIGTERM)
    assert run.end(10)[0] == 143
    lines = (run.folder / "metrics.csv").read_text().splitlines()
    place = lines[0].split(",").index("step")
    steps = {int(line.split(",")[place]) for line in lines[1:]}
    assert steps == set(range(1, run.step()))  # speeds are told from the second step on


def test_two_ranks_stopped_killed_and_resumed_are_the_two_that_were_not(shards, tmp_path):
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_steps=60", "--ckpt_path", "last"]
    quiet = Run(tmp_path / "quiet", shards, *two)
    assert quiet.process.wait(timeout=120) == 0
    for step, signum in ((10, signal.SIGTERM), (25, signal.SIGKILL), (60, None)):
        run = Run(tmp_path / "a", shards, *two, num_workers=1)
        run.wait_for_step(step)
        if signum:
            run.process.send_signal(signum)
        run.process.wait(timeout=60)
        assert run.left() == []
    states = [torch.load(r.folder / "checkpoints/last.ckpt", weights_only=True) for r in (quiet, run)]
    assert differences(states[0]["state_dict"], states[1]["state_dict"]) == []
    assert states[1]["global_step"] == 60


def test_slurm_queues_the_job_again_and_it_goes_on_by_itself(shards, tmp_path):
    tool = tmp_path / "bin/scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/requeued\n')
    tool.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}
    slurm |= {"SLURM_JOB_NAME": "train", "SLURM_NODELIST": "localhost", "PATH": f"{tool.parent}:{os.environ['PATH']}"}
    run = Run(tmp_path / "a", shards, "--ckpt_path", "last", environment=slurm)
    run.wait_for_step(5)
    run.process.send_signal(signal.SIGUSR1)
    code, line = run.end(10)
    assert (code, (tmp_path / "requeued").read_text()) == (138, "requeue 77\n")
    assert "the job was queued again" in line
    stopped = run.step()
    again = Run(tmp_path / "a", shards, "--ckpt_path", "last", environment=slurm)
    again.wait_for_step(stopped + 5)
    again.process.send_signal(signal.SIGTERM)
    assert again.end(10)[0] == 143
    assert [path.name for path in (tmp_path / "a/runs").iterdir()] == ["run-1"]
