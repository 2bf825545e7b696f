"""Quality of image synthesis on Fashion-MNIST (`fashion-mnist-mini`), from raw pictures to scores.

    python benchmarks/synthesis.py [--seeds 1 2 3] [--out runs/benchmark_synthesis]

For each seed a tokenizer, an ENAT and an AutoNAT are trained by `mmmask fit` with their shipped configurations, one
after the other; then 1,000 images, 100 a class, are drawn with several schedules and looked at by a classifier that
was trained on the real pictures. Printed, as Markdown, are consistency (share of images in which it sees the class
that was asked for), Frechet distance of its features to the 4,500 training pictures, precision, recall, and FLOPs of
one image. What exists in the output folder already is not made again.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from datamodules import Image, Label, ShardData
from mmmask.metrics import Classifier, ImageScores
from mmmask.pretrained.model_files import Model, read, write
from mmmask.synthesis import AutoNATSchedule, CosineSchedule, ENATSchedule, Sampler
from tasks.finished import model_of

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("MMMASK_DATA", ROOT.parent / "shared" / "data")) / "fashion-mnist-mini"
JUDGE = {"class_path": "mmmask.metrics.Classifier", "init_args": {"classes": 10}}
IMAGES = 1000
SAMPLERS = {
    "cosine, 8 steps": Sampler(CosineSchedule(8, guidance=1.0)),
    "cosine, 8 steps, no guidance": Sampler(CosineSchedule(8)),
    "cosine, 4 steps": Sampler(CosineSchedule(4, guidance=1.0)),
    "ENAT's, 8 steps": Sampler(ENATSchedule(8, temperature=2.0, guidance=2.0)),
    "AutoNAT's published, 8 steps": Sampler(AutoNATSchedule()),
    "cosine, 8 steps, no reuse": Sampler(CosineSchedule(8, guidance=1.0), reuse=False),
}


def pictures(part):
    """All pictures (N, 1, 28, 28) in 0..1 and their classes."""
    readers = {"image": Image(field="png", size=28, channels=1, crop="none"), "label": Label()}
    data = ShardData(f"{DATA}/train-*.tar", readers, test=f"{DATA}/{part}-*.tar", batch_size=500)
    data.setup("test")
    batches = list(data.test_dataloader())
    return torch.cat([b["image"] for b in batches]).float() / 255, torch.cat([b["label"] for b in batches])


def judge(path, images, labels, epochs=12, batch=64):
    """The classifier that looks at images: trained on the real ones, always with the same seed."""
    if path.exists():
        return read(path).parts["judge"]
    torch.manual_seed(0)
    model = Classifier(10)
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=0.01)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(batch)[: len(images) // batch]:
            some = images[index]
            some = torch.where(torch.rand(len(some), 1, 1, 1) < 0.5, some.flip(3), some)
            loss = F.cross_entropy(model(some).logits, labels[index], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    write(path, Model({"judge": model}, {"judge": JUDGE}), "Judge of Fashion-MNIST.")
    return model.eval()


def fit(config, folder, seed, *options):
    """Train with the command line; seconds of the whole process, or those noted when it was done before."""
    note = folder / "seconds.json"
    if not note.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "mmmask.cli", "fit", "--config", f"configs/{config}"]
        command += ["--seed_everything", str(seed), "--trainer.default_root_dir", str(folder), *options]
        command += ["--data.train", f"{DATA}/train-*.tar", "--data.val", f"{DATA}/test-*.tar"]
        start = time.perf_counter()
        with open(folder / "log", "w") as log:
            subprocess.run(command, cwd=ROOT, check=True, stdout=log, stderr=subprocess.STDOUT)
        note.write_text(json.dumps(time.perf_counter() - start))
    return json.loads(note.read_text())


def flops(generator, sampler):
    """GFLOP of one image, its tokenizer not counted."""
    with FlopCounterMode(display=False) as counter:
        sampler.sample(generator, torch.tensor([0]), [0])
    return counter.get_total_flops() / 1e9


def scores(look, real, images, classes):
    scored = ImageScores(look)
    for some in real.split(500):
        scored.add_real(some)
    for some, asked in zip(images.split(500), classes.split(500), strict=True):
        scored.add_generated(some, asked)
    return scored.compute()


def drawn(model, sampler, classes):
    """Images of these classes, seeds from 0, and the seconds they took."""
    start, tokenizer = time.perf_counter(), model.parts["tokenizer"]
    seeds = torch.arange(len(classes)).split(250)
    ids = [sampler.sample(model.parts["generator"], c, s) for c, s in zip(classes.split(250), seeds, strict=True)]
    grids = torch.cat(ids).view(-1, tokenizer.grid, tokenizer.grid)
    images = torch.cat([tokenizer.decode(some) for some in grids.split(250)])
    return images, time.perf_counter() - start


def row(name, found, cost=""):
    columns = (found[key] for key in ("consistency", "frechet_distance", "precision", "recall"))
    print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in columns) + f" | {cost} |", flush=True)


def references(look, train, labels, test, test_labels):
    """What the scores are for real pictures, for what the classes look like on average, and for noise."""
    row("real test pictures", scores(look, train, test, test_labels))
    means = torch.stack([train[labels == c].mean(0) for c in range(10)])
    row("mean picture of the class", scores(look, train, means[test_labels], test_labels))
    row("noise", scores(look, train, torch.rand(test.shape, generator=torch.Generator().manual_seed(0)), test_labels))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_synthesis"))
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    (train, labels), (test, test_labels) = pictures("train"), pictures("test")
    look = judge(out / "judge.safetensors", train, labels)
    print("| | consistency | Frechet distance | precision | recall | GFLOP an image; s for 1,000 |")
    print("|---|---|---|---|---|---|")
    references(look, train, labels, test, test_labels)
    classes, gathered, seconds = torch.arange(IMAGES) % 10, {}, []
    for seed in arguments.seeds:
        tokenizer, here = out / f"tokenizer-{seed}", out / f"seed-{seed}"
        times = [fit("tokenizer/fashion_mnist.yaml", tokenizer, seed)]
        with torch.no_grad():
            decoder = model_of(tokenizer).parts["tokenizer"]
            there_and_back = torch.cat([decoder.decode(decoder.encode(some)) for some in test.split(500)])
        gathered.setdefault("its tokenizer's test pictures", []).append(
            scores(look, train, there_and_back, test_labels)
        )
        for family, config in (("ENAT", "fashion_mnist.yaml"), ("AutoNAT", "fashion_mnist_autonat.yaml")):
            times.append(fit(f"synthesis/{config}", here / family, seed, "--model.tokenizer", str(tokenizer)))
            model = model_of(here / family)
            for name, sampler in SAMPLERS.items():
                if not (family == "AutoNAT" and not sampler.reuse):
                    images, took = drawn(model, sampler, classes)
                    found = scores(look, train, images, classes)
                    row(
                        f"{family} {name}, seed {seed}",
                        found,
                        f"{flops(model.parts['generator'], sampler):.2f}; {took:.0f}",
                    )
                    gathered.setdefault(f"{family} {name}", []).append(found)
        seconds.append(times)
        print(
            f"| seed {seed}: trained in {', '.join(f'{t:.0f} s' for t in times)} (tokenizer, ENAT, AutoNAT) |",
            flush=True,
        )
    for name, found in gathered.items():
        spread = {k: [each[k] for each in found] for k in ("consistency", "frechet_distance")}
        words = (f"{k} {statistics.mean(v):.3f} ({min(v):.3f}-{max(v):.3f})" for k, v in spread.items())
        print(f"{name}: {', '.join(words)}")


if __name__ == "__main__":
    main()
