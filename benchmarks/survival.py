"""A small training under SIGKILL, SIGTERM, Ctrl-C, full disks and corrupted samples, against the same left alone.

    python benchmarks/survival.py [--minutes 10] [--steps 7000] [--seed 0]

For so many minutes something happens to the run at random moments; each time it is started again with
`mmmask resume`, with another number of loading workers. Then it may finish. Its last checkpoint (weights, average,
optimiser, schedule, place in the data) and its metrics.csv must be those of the quiet run, bit for bit.
"""

import argparse
import csv
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
import yaml
from rich.console import Console
from rich.table import Table

from datamodules.shapes_world_data import ensure_shapes_world
from datamodules.shards import ShardSet

CODES = {  # how a run may end that this has happened to; 0: it had finished just before
    "SIGKILL": {-signal.SIGKILL, 0},
    "SIGTERM": {143, -signal.SIGTERM, 0},  # before mmmask has begun the signal does what it always does
    "Ctrl-C": {130, -signal.SIGINT, 0},
    "full disk": {1, 0},
    "corrupted sample": {2, 0},
}


def configuration(shards, folder, steps):
    """The demo's tokenizer, smaller, with everything on that has a state."""
    quantizer = {"class_path": "mmmask.tokenizers.CosineQuantizer", "init_args": {"vocab_size": 64}}
    sizes = {"image_size": 32, "dim": 32, "width": 8, "quantizer": quantizer}
    data = {
        "train": f"{shards}/train-*.tar",
        "val": f"{shards}/test-*.tar",
        "batch_size": 16,
        "modalities": {"rgb": {"class_path": "Image", "init_args": {"field": "rgb.png", "size": 32, "flip": True}}},
    }
    return {
        "trainer": {
            "accelerator": "cpu",
            "max_steps": steps,
            "accumulate_grad_batches": 2,
            "gradient_clip_val": 1.0,
            "val_check_interval": 100,
            "log_every_n_steps": 10,
            "default_root_dir": str(folder),
            "callbacks": [{"class_path": "tasks.training.ema.EMA", "init_args": {"decay": 0.99}}],
        },
        "model": {
            "class_path": "TokenizerTraining",
            "init_args": {
                "modality": "rgb",
                "tokenizer": {"class_path": "mmmask.tokenizers.ViTTokenizer", "init_args": sizes},
            },
        },
        "checkpoints": {"every_n_steps": 50, "best": "val/mse", "keep_every": 1000},
        "guards": {"spike": 20},
        "data": {"class_path": "ShardData", "init_args": data},
    }


class Run:
    """One training, in as many processes, one after the other, as it takes."""

    def __init__(self, folder, shards, steps):
        self.folder, self.shards = folder / "run-1", shards
        self.config = folder / "config.yaml"
        folder.mkdir(parents=True)
        self.config.write_text(yaml.safe_dump(configuration(shards, folder, steps)))
        self.errors = folder / "errors.txt"

    def start(self, workers):
        last = self.folder / "checkpoints" / "last.ckpt"
        verb = ["resume", self.folder] if last.exists() else ["fit", "--config", self.config]
        if verb[0] == "fit":
            shutil.rmtree(self.folder, ignore_errors=True)  # killed before its first checkpoint
        command = [sys.executable, "-m", "mmmask.cli", *map(str, verb), f"--data.init_args.num_workers={workers}"]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(self.errors, "a") as stream:
            self.process = subprocess.Popen(
                command, env=one_thread, stderr=stream, stdout=stream, start_new_session=True
            )

    def step(self):
        last = self.folder / "checkpoints" / "last.ckpt"
        return int(last.resolve().stem[5:]) if last.exists() else 0

    def end(self):
        code = self.process.wait()
        subprocess.run(["pkill", "-KILL", "-g", str(self.process.pid)], check=False)
        return code


def happen(event, run, rng):
    """Let it happen to the run; returns what undoes it."""
    process = run.process
    if event == "SIGKILL":
        process.kill()
    elif event == "SIGTERM":
        process.terminate()
    elif event == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    elif event == "full disk":
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
    elif event == "corrupted sample":
        return corrupt(run.shards, rng)
    return lambda: None


def corrupt(shards, rng):
    """Overwrite the last byte of every tenth picture of a shard; returns what puts them back."""
    (member,) = rng.choice(ShardSet(f"{shards}/train-*.tar").shards).members
    column, path = member.columns["rgb.png"], Path(member.url)
    ends = [int(member.index.offsets[row, column] + member.index.sizes[row, column]) - 1 for row in range(0, 1000, 10)]
    before = [path.read_bytes()[end] for end in ends]
    overwrite(path, ends, [byte ^ 0xFF for byte in before])
    return lambda: overwrite(path, ends, before)


def overwrite(path, places, values):
    """As a bad disk does it: without a new date."""
    status = path.stat()
    with open(path, "r+b") as stream:
        for place, value in zip(places, values, strict=True):
            stream.seek(place)
            stream.write(bytes([value]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def survive(run, minutes, rng):
    """Let things happen, start again, until the time is over and the run has finished. Returns what happened."""
    happened = defaultdict(list)
    over = time.monotonic() + 60 * minutes
    while time.monotonic() < over:
        run.start(workers=rng.choice([0, 1, 2]))
        event = rng.choice(list(CODES))
        before, began = run.step(), time.monotonic()
        time.sleep(rng.uniform(3, 25))
        undo = happen(event, run, rng) if run.process.poll() is None else lambda: None
        if event in ("full disk", "corrupted sample"):  # which may take a while to be met
            try:
                run.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                run.process.kill()
                event = "SIGKILL"
        code = run.end()
        undo()
        if code not in CODES[event]:
            raise SystemExit(f"{event} ended with {code}:\n{run.errors.read_text()[-3000:]}")
        if (last := run.folder / "checkpoints" / "last.ckpt").exists():
            torch.load(last, weights_only=True)
        happened[event].append((code, run.step() - before, time.monotonic() - began))
        print(f"{event}: exit code {code}, {run.step() - before} steps further, at {run.step()}", flush=True)
        if code == 0:
            break
    finish(run)
    return happened


def finish(run):
    run.start(workers=1)
    if code := run.end():
        raise SystemExit(f"the run ended with {code}:\n{run.errors.read_text()[-3000:]}")


def outcome(run):
    content = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)
    names = ("state_dict", "ema", "optimizer_states", "lr_schedulers", "global_step", "epoch")
    content = {**{name: content[name] for name in names}, "loader": content["loops"]["fit_loop"]["state_dict"]}
    with open(run.folder / "metrics.csv", newline="") as stream:
        rows = [{k: v for k, v in row.items() if v and not k.startswith("speed/")} for row in csv.DictReader(stream)]
    return content, [row for row in rows if set(row) - {"step", "epoch"}]


def equal(a, b):
    """Bit for bit, wherever it is."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def report(happened, quiet, survived, seconds):
    table = Table("what happened", "times", "exit codes", "steps kept (mean)", box=None)
    for event, ends in sorted(happened.items()):
        codes = ", ".join(str(code) for code in sorted({code for code, _, _ in ends}))
        table.add_row(event, str(len(ends)), codes, f"{sum(kept for _, kept, _ in ends) / len(ends):.0f}")
    console = Console(width=100)
    console.print(table)
    (a, rows_a), (b, rows_b) = outcome(quiet), outcome(survived)
    for name in a:
        console.print(f"{name}: {'equal' if equal(a[name], b[name]) else 'DIFFERENT'}")
    console.print(f"metrics.csv: {'equal' if rows_a == rows_b else 'DIFFERENT'} ({len(rows_a)} and {len(rows_b)} rows)")
    leftovers = [path.name for path in (survived.folder / "checkpoints").iterdir() if path.name.startswith(".")]
    console.print(f"leftovers: {leftovers or 'none'}; {seconds / 60:.1f} minutes")
    return equal(a, b)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shards = ensure_shapes_world(train=2_000, test=200)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        shutil.copytree(shards, folder / "shards")
        quiet, survived = (Run(folder / name, folder / "shards", options.steps) for name in ("quiet", "survived"))
        began = time.monotonic()
        finish(quiet)
        print(f"the quiet run took {time.monotonic() - began:.0f} s", flush=True)
        began = time.monotonic()
        happened = survive(survived, options.minutes, random.Random(options.seed))
        raise SystemExit(not report(happened, quiet, survived, time.monotonic() - began))


if __name__ == "__main__":
    main()
