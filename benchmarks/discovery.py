"""What `mmmask discover` finds of real sets, by their protocols, without any training: All, Old and New in %.

    python benchmarks/discovery.py --seeds 0 1 2 [--data fashion-products ...] [--classes known estimated]

Accuracy is on the unlabelled training samples (transductive), with one assignment of clusters to classes. Texts come as
TF-IDF, pictures as histograms of gradients. Labels of new classes judge, and do nothing else.
"""

import argparse
import csv
import json
import statistics
from pathlib import Path

from runs import SETS, call

from datamodules import ShardSet
from datamodules.selection import records
from mmmask.metrics import agreement

MASKED = ["--text", "json", "--part", "title_masked"]  # without the words that name the class
KINDS = {  # name: set, classes, options
    "fashion-products": ("fashion-products", 42, []),
    "fashion-products, masked": ("fashion-products", 42, MASKED),
    "emoji-aligned": ("emoji-aligned", 77, ["--pictures", "openmoji.png"]),
    "food10-pairs": ("food10-pairs", 10, []),
}


def truth(shards):
    """The records of all training samples that have a class, by key."""
    return {key: record for key, record in records(ShardSet(shards), part="label") if record["label"] is not None}


def labels(path, true):
    """Write the table of the labelled samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["key", "category"])
        table.writerows((key, record["class"]) for key, record in true.items() if record["labelled"])
    return path


def split(true):
    """How a set's protocol splits it."""
    classes = {record["label"]: record["old"] for record in true.values()}
    labelled = sum(bool(record["labelled"]) for record in true.values())
    return f"{sum(classes.values())} + {len(classes) - sum(classes.values())}, {labelled:,} of {len(true):,}"


def scores(found, true):
    """All, old and new accuracy, in %, and how many categories there are."""
    with open(found / "assignments.csv", newline="") as stream:
        ids = {row["key"]: int(row["id"]) for row in csv.DictReader(stream)}
    judged = [key for key, record in true.items() if not record["labelled"]]
    old = {record["label"] for record in true.values() if record["old"]}
    parts = agreement([ids[key] for key in judged], [true[key]["label"] for key in judged], old)
    return [*(100 * parts[part] for part in ("all", "old", "new")), len(set(ids.values()))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--classes", nargs="+", choices=["known", "estimated"], default=["known", "estimated"])
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_discovery"))
    arguments = parser.parse_args()
    print("| data, split (old + new, labelled of all) | K | seeds | transductive All | Old | New | categories | s |")
    print("|---" * 8 + "|")
    for name in arguments.data:
        data, k, options = KINDS[name]
        shards = f"{SETS / data}/train-*.tar"
        true, out = truth(shards), (arguments.out / name).absolute()
        given = labels(out / "labels.csv", true)
        for how in arguments.classes:
            rows = []
            for seed in arguments.seeds:
                folder = out / f"{how}-{seed}"
                settings = ["--data", shards, "--labels", given, "--out", folder / "found", "--seed", seed, *options]
                seconds = call(folder, "discover", *settings, *(["--classes", k] if how == "known" else []))
                rows.append([*scores(folder / "found", true), seconds])
            columns = list(zip(*rows, strict=True))
            shown = (f"{statistics.mean(some):.1f} ({min(some):.1f}-{max(some):.1f})" for some in columns)
            seeds = " ".join(map(str, arguments.seeds))
            print(f"| {name}, {split(true)} | {how} | {seeds} | {' | '.join(shown)} |", flush=True)
            (out / f"{how}.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
