"""Decoding that reuses, is searched, adapts, on Fashion-MNIST or on the OpenMoji drawings of `emoji-aligned`.

    python benchmarks/decoding.py --seeds 1 2 3 [--data emoji-aligned] [--families AutoNAT ENAT] [--evaluations 80]
        [--policies Adversarial FrechetReward]

What is not there yet is trained with the shipped configurations: a tokenizer and a generator of each family for each
seed (for Fashion-MNIST the same as by `benchmarks/synthesis.py`), and the classifier that judges. For each seed's
model: plain steps against ReCAP (one or two local steps after each full one) at equal FLOPs, and the cosine schedule
against one that was searched (4 steps, CMA-ES, 500 images a strategy, judged by the Frechet distance), all scored with
1,000 images of other seeds than the search looked at. With --policies, policies (AdaNAT) that began with the cosine
too: trained by an adversary, which looks through another classifier than the judge; or, as the search, by what it
sees itself (the Frechet distance, or how sure it is of the class). What was found with the judge is scored by another
one too, which had no part in it.
"""

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from image_sets import (
    ROOT,
    SETS,
    drawn_and_scored,
    evenly,
    header,
    judge,
    mean_rows,
    references,
    remembered,
    row,
    scores,
    through,
)

from mmmask.metrics import ImageScores
from mmmask.synthesis import CosineSchedule, ReCAP, ReCAPSchedule, Sampler
from tasks.finished import model_of
from tasks.samplers import sampler_of

STEPS = 4  # of the search, and of the policies
REWARDS = ("Adversarial", "FrechetReward", "Recognised")


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
    folder, home = out / "search", out.parent.parent.parent
    command = [sys.executable, "-m", "mmmask.cli", "search", "--model", run, "--out", folder, "--steps", STEPS]
    command += ["--metric", "FrechetDistance", "--metric.statistics", home / "real.npz"]
    command += ["--metric.judge", home / "judge.safetensors", "--optimiser", "CMAES", "--images", 500]
    command += ["--evaluations", evaluations, "--seed", 5000 + 1000 * seed]
    command += ["--workers", min(2, torch.get_num_threads())]
    with open(out / "search.log", "a") as log:
        subprocess.run(list(map(str, command)), cwd=ROOT, check=True, stdout=log, stderr=subprocess.STDOUT)
    return folder / "best.yaml"


def of_seed(pictures, seed, family, out, judges, train, evaluations, policies):
    """What was scored with this seed's model, by name. What was found with the judge is shown to another one too."""
    run = out / f"seed-{seed}" / family
    model, notes = model_of(run), run / "decoding"
    notes.mkdir(exist_ok=True)

    def scored(name, model, sampler, by="judge"):
        note = notes / f"{name.replace(' ', '-').replace(',', '')}{'' if by == 'judge' else '-' + by}.json"
        found = remembered(note, drawn_and_scored, model, sampler, torch.float32, judges[by], train)
        return name if by == "judge" else f"{name}, by {by}", found

    ways, found = {name: (model, sampler) for name, sampler in WAYS.items()}, []
    if evaluations:
        best = searched(run, notes, seed, evaluations)
        found.append(f"searched ({evaluations}), {STEPS} steps")
        ways[found[-1]] = model, sampler_of(model, str(best))
    for reward in policies:
        trained = model_of(pictures.fit_policy(run, out, seed, reward)[0])
        found.append(f"policy ({reward}), {STEPS} steps")
        ways[found[-1]] = trained, sampler_of(trained)
    for name, (model, sampler) in ways.items():
        yield scored(name, model, sampler)
    for name in (f"cosine, {STEPS} steps", *found) if found else ():
        yield scored(name, *ways[name], "another judge")


def statistics_of(train, look, path):
    """What the search compares with; its file."""
    if not path.exists():
        real = ImageScores(look)
        for some in train.split(500):
            real.add_real(some)
        real.save_statistics(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=SETS, default="fashion-mnist-mini")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--families", nargs="+", help="AutoNAT, ENAT (default: all that there are for the data)")
    parser.add_argument("--evaluations", type=int, default=80, help="strategies to judge in a search; 0: no search")
    parser.add_argument("--policies", nargs="*", default=[], choices=REWARDS, help="train these policies too")
    parser.add_argument(
        "--precision",
        default="bf16-mixed",
        help="of the generator while a policy learns: 32 where the processor does not multiply bfloat16",
    )
    parser.add_argument(
        "--images", type=int, default=512, help="that a policy draws in a step to learn by what they are worth"
    )
    parser.add_argument("--out", type=Path, help="folder of models and notes (default: runs/benchmark_...)")
    arguments = parser.parse_args()
    pictures = replace(SETS[arguments.data], precision=arguments.precision, images=arguments.images)
    out = (arguments.out or pictures.out).absolute()
    (train, labels), (test, test_labels) = pictures.pictures("train"), pictures.pictures("test")
    look = judge(out / "judge.safetensors", train, labels, pictures.judge_epochs)
    other = judge(out / "other.safetensors", train, labels, pictures.judge_epochs, seed=2)
    judge(out / "looks.safetensors", train, labels, pictures.judge_epochs, seed=1)
    judges = {"judge": look, "another judge": other}
    statistics_of(train, look, out / "real.npz")
    header()
    references(look, train, labels, test, test_labels)
    even = evenly(labels)
    row("training pictures, as many of each class as are drawn", scores(look, train, train[even], labels[even]))
    for seed in arguments.seeds:
        tokenizer, _ = pictures.fit_tokenizer(out, seed)
        there_and_back = through(model_of(tokenizer).parts["tokenizer"], test)
        row(f"test pictures through the tokenizer, seed {seed}", scores(look, train, there_and_back, test_labels))
    for family in arguments.families or sorted(pictures.generators):
        gathered = {}
        for seed in arguments.seeds:
            pictures.fit_generator(family, out, seed)
            for name, found in of_seed(
                pictures, seed, family, out, judges, train, arguments.evaluations, arguments.policies
            ):
                row(f"{family}, {name}, seed {seed}", found)
                gathered.setdefault(f"{family}, {name}", []).append(found)
        mean_rows(gathered)


if __name__ == "__main__":
    main()
