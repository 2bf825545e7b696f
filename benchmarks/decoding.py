"""Decoding that reuses and is searched, on Fashion-MNIST, with models that `benchmarks/synthesis.py` trained.

    python benchmarks/synthesis.py --seeds 1 2 3           # trains what is not there yet
    python benchmarks/decoding.py --seeds 1 2 3 [--families AutoNAT ENAT] [--evaluations 80]

For each seed's model: plain steps against ReCAP (one or two local steps after each full one) at equal FLOPs, and the
cosine schedule against one that was searched (4 steps, CMA-ES, 500 images a strategy, judged by the Frechet distance),
all scored with 1,000 images of other seeds than the search looked at.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from synthesis import ROOT, drawn_and_scored, judge, pictures, remembered, row

from mmmask.metrics import ImageScores
from mmmask.synthesis import CosineSchedule, ReCAP, ReCAPSchedule, Sampler
from tasks.finished import model_of
from tasks.samplers import sampler_of

STEPS = 4  # of the search


def cooling(steps, full=0, local=0):
    """ReCAP's schedule, as good for plain steps: temperature falls from 1 to 0.5."""
    return ReCAPSchedule(steps, full, local, temperature=0.5, remask=4.5, guidance=1.0)


WAYS = {
    "cosine, 4 steps": Sampler(CosineSchedule(4, guidance=1.0)),
    "cosine at temperature 0.7, 4 steps": Sampler(CosineSchedule(4, temperature=0.7, guidance=1.0)),
    "cooling, 4 steps": Sampler(cooling(4)),
    "ReCAP, 3 full and 3 local": ReCAP(cooling(6, local=1), local=1),
    "ReCAP, 2 full and 4 local": ReCAP(cooling(6, local=2), local=2),
    "cosine at temperature 0.7, 8 steps": Sampler(CosineSchedule(8, temperature=0.7, guidance=1.0)),
    "cooling, 8 steps": Sampler(cooling(8)),
    "ReCAP, 6 full and 6 local": ReCAP(cooling(12, local=1), local=1),
    "ReCAP, 5 full and 10 local": ReCAP(cooling(15, local=2), local=2),
}


def searched(run, out, seed, evaluations):
    """The strategy that `mmmask search` finds for this run; its file."""
    folder = out / "search"
    command = [sys.executable, "-m", "mmmask.cli", "search", "--model", run, "--out", folder, "--steps", STEPS]
    command += ["--metric", "FrechetDistance", "--metric.statistics", out.parent.parent.parent / "real.npz"]
    command += [
        "--metric.judge",
        out.parent.parent.parent / "judge.safetensors",
        "--optimiser",
        "CMAES",
        "--images",
        500,
    ]
    command += ["--evaluations", evaluations, "--seed", 5000 + 1000 * seed, "--workers", 2]
    with open(out / "search.log", "a") as log:
        subprocess.run(list(map(str, command)), cwd=ROOT, check=True, stdout=log, stderr=subprocess.STDOUT)
    return folder / "best.yaml"


def of_seed(seed, family, out, look, train, evaluations):
    """What was scored with this seed's model, by name."""
    run = out / f"seed-{seed}" / family
    model, notes = model_of(run), run / "decoding"
    notes.mkdir(exist_ok=True)
    for name, sampler in WAYS.items():
        note = notes / f"{name.replace(' ', '-').replace(',', '')}.json"
        yield name, remembered(note, drawn_and_scored, model, sampler, torch.float32, look, train)
    if evaluations:
        sampler = sampler_of(model, str(searched(run, notes, seed, evaluations)))
        note = notes / f"searched-{evaluations}.json"
        found = remembered(note, drawn_and_scored, model, sampler, torch.float32, look, train)
        yield f"searched, {STEPS} steps", found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--families", nargs="+", default=["AutoNAT", "ENAT"])
    parser.add_argument("--evaluations", type=int, default=80, help="strategies to judge in a search; 0: no search")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_synthesis"))
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    train, labels = pictures("train")
    look = judge(out / "judge.safetensors", train, labels)
    if not (out / "real.npz").exists():
        scores = ImageScores(look)
        for some in train.split(500):
            scores.add_real(some)
        scores.save_statistics(out / "real.npz")
    print("| | consistency | Frechet distance | precision | recall | GFLOP an image | s for 1,000 |")
    print("|---|---|---|---|---|---|---|")
    for family in arguments.families:
        gathered = {}
        for seed in arguments.seeds:
            for name, found in of_seed(seed, family, out, look, train, arguments.evaluations):
                row(f"{family}, {name}, seed {seed}", found)
                gathered.setdefault(name, []).append(found)
        for name, found in gathered.items():
            means = {key: statistics.mean(each[key] for each in found) for key in found[0]}
            row(f"{family}, {name}, mean of {len(found)}", means)


if __name__ == "__main__":
    main()
