"""Quality of image synthesis on Fashion-MNIST (`fashion-mnist-mini`), from raw pictures to scores.

    python benchmarks/synthesis.py [--seeds 1 2 3] [--out runs/benchmark_synthesis]

For each seed a tokenizer, an ENAT and an AutoNAT are trained by `mmmask fit` with their shipped configurations, one
after the other; then 1,000 images, 100 a class, are drawn with several schedules and looked at by a classifier that
was trained on the real pictures. Printed, as Markdown, are consistency (share of images in which it sees the class
that was asked for), Frechet distance of its features to the 4,500 training pictures, precision, recall, and FLOPs of
one image. What exists in the output folder already is not made again.
"""

import argparse
import copy
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


def drawn_and_scored(model, sampler, dtype, look, real):
    """Scores of images drawn with seeds from 0, the seconds that drawing took, GFLOP of one image."""
    generator, tokenizer = copy.deepcopy(model.parts["generator"]).to(dtype), model.parts["tokenizer"]
    start, classes = time.perf_counter(), torch.arange(IMAGES) % 10
    batches = zip(classes.split(250), torch.arange(IMAGES).split(250), strict=True)
    ids = torch.cat([sampler.sample(generator, asked, seeds) for asked, seeds in batches])
    grids = ids.view(-1, tokenizer.grid, tokenizer.grid)
    images = torch.cat([tokenizer.decode(some) for some in grids.split(250)])
    seconds = time.perf_counter() - start
    return {**scores(look, real, images, classes), "seconds": seconds, "gflop": flops(generator, sampler)}


def remembered(note, make, *arguments):
    """What was noted there when it was made before."""
    if not note.exists():
        note.write_text(json.dumps(make(*arguments)))
    return json.loads(note.read_text())


def row(name, found):
    shown = [f"{found[key]:.3f}" for key in ("consistency", "frechet_distance", "precision", "recall")]
    shown += [f"{found['gflop']:.2f}", f"{found['seconds']:.0f}"] if "gflop" in found else ["", ""]
    print(f"| {name} | {' | '.join(shown)} |", flush=True)


def references(look, train, labels, test, test_labels):
    """What the scores are for real pictures, for what the classes look like on average, and for noise."""
    row("real test pictures", scores(look, train, test, test_labels))
    means = torch.stack([train[labels == c].mean(0) for c in range(10)])
    row("mean picture of the class", scores(look, train, means[test_labels], test_labels))
    row("noise", scores(look, train, torch.rand(test.shape, generator=torch.Generator().manual_seed(0)), test_labels))


def of_seed(seed, out, look, train, test, test_labels):
    """Train everything with this seed, if it is not there yet; yields what was scored, by name."""
    tokenizer, here = out / f"tokenizer-{seed}", out / f"seed-{seed}"
    times = [fit("tokenizer/fashion_mnist.yaml", tokenizer, seed)]
    decoder = model_of(tokenizer).parts["tokenizer"]
    there_and_back = torch.cat([decoder.decode(decoder.encode(some)) for some in test.split(500)])
    yield "test pictures through the tokenizer", scores(look, train, there_and_back, test_labels)
    for family, config in (("ENAT", "fashion_mnist.yaml"), ("AutoNAT", "fashion_mnist_autonat.yaml")):
        times.append(fit(f"synthesis/{config}", here / family, seed, "--model.tokenizer", str(tokenizer)))
        model = model_of(here / family)
        for number, (name, (sampler, dtype, of_enat)) in enumerate(WAYS.items()):
            if family == "ENAT" or not of_enat:
                note = here / family / f"scores-{number}.json"
                yield f"{family}, {name}", remembered(note, drawn_and_scored, model, sampler, dtype, look, train)
    print(f"seed {seed}: tokenizer, ENAT, AutoNAT trained in {', '.join(f'{t:.0f} s' for t in times)}", file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_synthesis"))
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    (train, labels), (test, test_labels) = pictures("train"), pictures("test")
    look = judge(out / "judge.safetensors", train, labels)
    print("| | consistency | Frechet distance | precision | recall | GFLOP an image | s for 1,000 |")
    print("|---|---|---|---|---|---|---|")
    references(look, train, labels, test, test_labels)
    gathered = {}
    for seed in arguments.seeds:
        for name, found in of_seed(seed, out, look, train, test, test_labels):
            row(f"{name}, seed {seed}", found)
            gathered.setdefault(name, []).append(found)
    for name, found in gathered.items():
        means = {key: statistics.mean(each[key] for each in found) for key in found[0]}
        row(f"{name}, mean of {len(found)}", means)


if __name__ == "__main__":
    main()
