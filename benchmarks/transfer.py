"""What an any-to-any encoder is worth to a classifier with few labels, on `fashion-products`.

    python benchmarks/transfer.py --seeds 1 2 3

What is not there yet is trained with the shipped configurations: a tokenizer of the photos, the words of the titles;
then, for each seed, an any-to-any model of photo, title, colour, gender and season, without any class, and classifiers
with some of the labels, by photo and title and by the photo alone: each begins from scratch, and with the encoder of
that model. A share of each class, drawn by the seed, is labelled; accuracy is that on the 737 test products after the
last step.
"""

import argparse
import json
import random
import statistics
import tarfile
from collections import defaultdict
from pathlib import Path

from runs import SETS, call

from datamodules.pack import pack

DATA = SETS / "fashion-products"
TRAIN, TEST = f"{DATA}/train-*.tar", f"{DATA}/test-*.tar"
WAYS = ("from scratch", "pre-trained")
PIXELS = {"class_path": "Patches", "init_args": {"image_size": 32, "patch": 8, "source": "photo"}}


def records():
    """All training samples: key, and field -> bytes."""
    found = defaultdict(dict)
    for shard in sorted(DATA.glob("train-*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, field = member.name.partition(".")
                found[key] |= {"__key__": key, field: tar.extractfile(member).read()}
    return found.values()


def labelled(out, seed, share):
    """Shards with this share of the samples of each class, one at the least."""
    folder = out / f"labelled-{share}-{seed}"
    if not list(folder.glob("train-*.tar")):
        classes = defaultdict(list)
        for record in records():
            classes[json.loads(record["json"])["label"]].append(record)
        draw = random.Random(seed)
        chosen = [draw.sample(mine, max(1, round(share * len(mine)))) for _, mine in sorted(classes.items())]
        pack([record for mine in chosen for record in mine], folder)
    return f"{folder}/train-*.tar"


def pretrained(out, seed, changes):
    """The run of an any-to-any model, and the seconds of its training."""
    data = ["--data.train", TRAIN, "--data.val", TEST]
    tokenizer, words = out / "tokenizer", out / "words" / "words.json"
    settings = ["--config", "configs/tokenizer/fashion_products.yaml", *data, *changes]
    call(tokenizer, "fit", *settings, "--trainer.default_root_dir", tokenizer)
    call(words.parent, "vocabulary", TRAIN, words, "--size", 1000, "--sentinels", 16)
    settings = ["--config", "configs/cross_modal/fashion_products.yaml", "--seed_everything", seed, *data]
    settings += ["--model.modalities.photo.init_args.run", tokenizer]
    settings += ["--model.modalities.title.init_args.vocabulary", words, *changes]
    folder = out / f"any-{seed}"
    return folder / "run-1", call(folder, "fit", *settings, "--trainer.default_root_dir", folder)


def classified(out, name, seed, share, *options):
    """The test accuracy of a classifier, and the seconds of its training."""
    folder = out / f"{name.replace(',', '').replace(' ', '-')}-{share}-{seed}"
    settings = ["--config", "configs/fine_tuning/fashion_products.yaml", "--seed_everything", seed]
    settings += ["--data.train", labelled(out, seed, share), "--data.val", TEST, *options]
    seconds = call(folder, "fit", *settings, "--trainer.default_root_dir", folder)
    rows = (folder / "run-1" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val/accuracy")
    return [float(value) for row in rows[1:] if (value := row.split(",")[column])][-1], seconds


def given(out):
    """Which modalities are known, as options of the command."""
    title = {"class_path": "Words", "init_args": {"vocabulary": str(out / "words" / "words.json"), "length": 24}}
    modalities = {"photo and title": {"pixels": PIXELS, "title": title}, "photo": {"pixels": PIXELS}}
    return {name: ["--model.modalities", json.dumps(own)] for name, own in modalities.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--share", type=float, default=0.1, help="of the labels")
    parser.add_argument("--steps", type=int, help="of each training, to see that all of it works")
    parser.add_argument("--precision", default="32-true", help="of all trainings; bf16-mixed where it is faster")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_transfer"))
    arguments = parser.parse_args()
    out, found = arguments.out.absolute(), defaultdict(list)
    changes = ["--trainer.precision", arguments.precision]
    if steps := arguments.steps:
        changes += ["--trainer.max_steps", steps, "--trainer.val_check_interval", steps]
    for seed in arguments.seeds:
        run, seconds = pretrained(out, seed, changes)
        found["pre-training, minutes"].append(seconds / 60)
        for known, modalities in given(out).items():
            for way, options in zip(WAYS, ([], ["--model.init_from", run]), strict=True):
                name = f"{known}, {way}"
                accuracy, seconds = classified(out, name, seed, arguments.share, *changes, *modalities, *options)
                found[f"{name}, accuracy"].append(accuracy)
                found[f"{name}, minutes"].append(seconds / 60)
        print(f"seed {seed}: {json.dumps({name: values[-1] for name, values in found.items()})}", flush=True)
    for known in given(out):
        first, second = (found[f"{known}, {way}, accuracy"] for way in WAYS)
        found[f"{known}, gain"] = [theirs - mine for mine, theirs in zip(first, second, strict=True)]
    print(f"| {arguments.share:.0%} of the labels | mean (range) |")
    print("|---|---|")
    for name, values in found.items():
        print(f"| {name} | {statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f}) |")


if __name__ == "__main__":
    main()
