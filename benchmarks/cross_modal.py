"""Any-to-any models on `emoji-aligned`: what they predict, and what they find again, against the set's baselines.

    python benchmarks/cross_modal.py --seeds 1 2 3

What is not there yet is trained with the shipped configurations: a tokenizer of each style, the words of the texts, and
a model for each seed. Errors are those of the mean of 64 draws, at 64 pixels, on the 387 test pairs that have both
styles; retrieval is among these, by the vectors of aligned modalities and by likelihoods.
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
from hog import hog, logistic_regression

from datamodules import Image, ShardData, Text
from mmmask.metrics import Recall
from mmmask.synthesis import FourMSchedule, Sampler, log_likelihoods
from tasks.finished import model_of

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("MMMASK_DATA", ROOT.parent / "shared" / "data")) / "emoji-aligned"
DRAWS, SIZE = 64, 64
BASELINES = {
    "OpenMoji -> Twemoji, squared error": 0.0596,
    "text -> OpenMoji, squared error": 0.0783,
    "OpenMoji -> text, R@1": 0.078,
    "OpenMoji -> Twemoji, R@1": 0.147,
}


def call(folder, *command):
    """Run a command of mmmask once; the seconds that it took, remembered in the folder."""
    note = folder / "seconds.json"
    if not note.exists():
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        with open(folder / "log", "w") as log:
            words = [sys.executable, "-m", "mmmask.cli", *map(str, command)]
            subprocess.run(words, cwd=ROOT, check=True, stdout=log, stderr=subprocess.STDOUT)
        note.write_text(json.dumps(time.perf_counter() - start))
    return json.loads(note.read_text())


def trained(out, seed):
    """The model of a seed, and the seconds of its training."""
    data = ["--data.train", f"{DATA}/train-*.tar", "--data.val", f"{DATA}/test-*.tar"]
    styles = {name: out / name for name in ("openmoji", "twemoji")}
    for name, folder in styles.items():
        settings = ["--config", "configs/tokenizer/emoji.yaml", "--trainer.default_root_dir", folder, *data]
        image = "--data.modalities.image.init_args"
        call(
            folder,
            "fit",
            *settings,
            "--data.missing",
            "leave out",
            f"{image}.field",
            f"{name}.png",
        )
    words = out / "words" / "words.json"
    call(words.parent, "vocabulary", f"{DATA}/train-*.tar", words, "--size", 1000, "--sentinels", 24)
    settings = ["--config", "configs/cross_modal/emoji.yaml", "--seed_everything", seed, *data]
    for name, folder in styles.items():
        settings += [f"--model.modalities.{name}.init_args.run", folder]
    settings += ["--model.modalities.text.init_args.vocabulary", words]
    folder = out / f"model-{seed}"
    seconds = call(folder, "fit", *settings, "--trainer.default_root_dir", folder)
    return model_of(folder).parts["any_to_any"], seconds


def samples(part, size):
    """All samples that have both styles: pictures on white in 0..1, texts, groups."""
    readers = {name: Image(f"{name}.png", size=size) for name in ("openmoji", "twemoji")}
    readers |= {"text": Text("txt"), "group": Text("json", part="group")}
    data = ShardData(f"{DATA}/train-*.tar", readers, test=f"{DATA}/{part}-*.tar", missing="leave out", batch_size=5000)
    data.setup("test")
    (batch,) = data.test_dataloader()
    return {name: value.float() / 255 if name in styles(batch) else value for name, value in batch.items()}


def styles(batch):
    return [name for name in ("openmoji", "twemoji") if name in batch]


def expected(model, given, target):
    """The mean picture of several draws of all tokens at once, scaled up."""
    model.decoders[target] = Sampler(FourMSchedule(model.catalogue[target].length, 1))
    count = len(next(iter(given.values())))
    drawn = [model.predict(given, [target], range(draw * count, (draw + 1) * count))[target] for draw in range(DRAWS)]
    return F.interpolate(torch.stack(drawn).mean(0), (SIZE, SIZE), mode="bilinear")


def scores(model, small, large):
    """All numbers of a model."""
    found, both = {}, {"openmoji_pixels": small["openmoji"], "text": small["text"]}
    for name, given, target in (
        ("OpenMoji -> Twemoji", ["openmoji_pixels"], "twemoji"),
        ("OpenMoji, text -> Twemoji", ["openmoji_pixels", "text"], "twemoji"),
        ("text -> Twemoji", ["text"], "twemoji"),
        ("text -> OpenMoji", ["text"], "openmoji"),
    ):
        picture = expected(model, {source: both[source] for source in given}, target)
        found[f"{name}, squared error"] = F.mse_loss(picture, large[target]).item()
    pixels = {"openmoji_pixels": small["openmoji"]}
    candidates = {"twemoji_pixels": small["twemoji"], "text": small["text"]}
    with torch.no_grad():
        vectors = model.vectors(model.known(pixels | candidates))
    for target, name in (("text", "OpenMoji -> text"), ("twemoji", "OpenMoji -> Twemoji")):
        aligned = vectors["openmoji_pixels"] @ vectors["text" if target == "text" else "twemoji_pixels"].T
        likely = log_likelihoods(model, pixels, target, small[target])
        for chances, how in ((aligned, ""), (likely, " by likelihood")):
            for top in (1, 5):
                recall = Recall(top)
                recall.update(chances)
                found[f"{name}, R@{top}{how}"] = recall.compute().item()
    for name, given in (("OpenMoji", ["openmoji_pixels"]), ("OpenMoji, text", list(both)), ("text", ["text"])):
        groups = model.predict({source: both[source] for source in given}, ["group"])["group"]
        right = [mine == theirs for mine, theirs in zip(groups, small["group"], strict=True)]
        found[f"{name} -> group, accuracy"] = statistics.mean(right)
    return found


def group_by_hog():
    """What logistic regression on histograms of gradients makes of the group."""
    train, test = samples("train", SIZE), samples("test", SIZE)
    names = sorted(set(train["group"]))
    labels, wanted = (torch.tensor([names.index(name) for name in part["group"]]) for part in (train, test))
    found = {
        decay: logistic_regression(hog(train["openmoji"]), labels, hog(test["openmoji"]), decay)
        for decay in (1e-4, 1e-3, 1e-2)
    }
    return max((mine == wanted).float().mean().item() for mine in found.values())  # the best, seen on the test itself


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_cross_modal"))
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    baselines = BASELINES | {"OpenMoji -> group, accuracy": group_by_hog()}
    small, large, rows = samples("test", 32), samples("test", SIZE), []
    for seed in arguments.seeds:
        model, seconds = trained(out, seed)
        rows.append({**scores(model, small, large), "training, minutes": seconds / 60})
        print(f"seed {seed}: {json.dumps(rows[-1])}", flush=True)
    print("| | mean (range) | baseline |")
    print("|---|---|---|")
    for name in rows[0]:
        values = [row[name] for row in rows]
        spread = f"{statistics.mean(values):.4f} ({min(values):.4f}-{max(values):.4f})"
        print(f"| {name} | {spread} | {f'{baselines[name]:.4f}' if name in baselines else ''} |")


if __name__ == "__main__":
    main()
