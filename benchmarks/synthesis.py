"""Quality of image synthesis on Fashion-MNIST (`fashion-mnist-mini`), from raw pictures to scores.

    python benchmarks/synthesis.py [--seeds 1 2 3] [--out runs/benchmark_synthesis]

For each seed a tokenizer, an ENAT and an AutoNAT are trained by `mmmask fit` with their shipped configurations, one
after the other; then 1,000 images, 100 a class, are drawn with several schedules and looked at by a classifier that
was trained on the real pictures. Printed, as Markdown, are consistency (share of images in which it sees the class
that was asked for), Frechet distance of its features to the 4,500 training pictures, precision, recall, and FLOPs of
one image. What exists in the output folder already is not made again.
"""

import argparse
import sys
from pathlib import Path

import torch
from image_sets import FASHION, drawn_and_scored, header, judge, mean_rows, references, remembered, row, scores, through

from mmmask.synthesis import AutoNATSchedule, CosineSchedule, ENATSchedule, Sampler
from tasks.finished import model_of

OWN = ENATSchedule(8, temperature=2.0, remask=3.0, guidance=1.5)
WAYS = {  # to draw: a sampler, the type of the model's numbers, and whether they concern ENAT alone
    "cosine, 8 steps": (Sampler(CosineSchedule(8, guidance=1.0)), torch.float32, False),
    "cosine, 8 steps, no guidance": (Sampler(CosineSchedule(8)), torch.float32, False),
    "cosine, 4 steps": (Sampler(CosineSchedule(4, guidance=1.0)), torch.float32, False),
    "ENAT's, 8 steps": (Sampler(OWN), torch.float32, False),
    "AutoNAT's published, 8 steps": (Sampler(AutoNATSchedule()), torch.float32, False),
    "cosine, 8 steps, no reuse": (Sampler(CosineSchedule(8, guidance=1.0), reuse=False), torch.float32, True),
    "ENAT's, 8 steps, bfloat16": (Sampler(OWN), torch.bfloat16, True),
}


def of_seed(seed, out, look, train, test, test_labels):
    """Train everything with this seed, if it is not there yet; yields what was scored, by name."""
    tokenizer, seconds = FASHION.fit_tokenizer(out, seed)
    times = [seconds]
    there_and_back = through(model_of(tokenizer).parts["tokenizer"], test)
    yield "test pictures through the tokenizer", scores(look, train, there_and_back, test_labels)
    for family in FASHION.generators:
        run, seconds = FASHION.fit_generator(family, out, seed)
        times.append(seconds)
        model = model_of(run)
        for number, (name, (sampler, dtype, of_enat)) in enumerate(WAYS.items()):
            if family == "ENAT" or not of_enat:
                note = run / f"scores-{number}.json"
                yield f"{family}, {name}", remembered(note, drawn_and_scored, model, sampler, dtype, look, train)
    print(f"seed {seed}: tokenizer, ENAT, AutoNAT trained in {', '.join(f'{t:.0f} s' for t in times)}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=FASHION.out)
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    (train, labels), (test, test_labels) = FASHION.pictures("train"), FASHION.pictures("test")
    look = judge(out / "judge.safetensors", train, labels, FASHION.judge_epochs)
    header()
    references(look, train, labels, test, test_labels)
    gathered = {}
    for seed in arguments.seeds:
        for name, found in of_seed(seed, out, look, train, test, test_labels):
            row(f"{name}, seed {seed}", found)
            gathered.setdefault(name, []).append(found)
    mean_rows(gathered)


if __name__ == "__main__":
    main()
