"""Our reading of MM-GCD against its parts, SimGCD and GCD, on `fashion-products`: All, Old and New in %.

    python benchmarks/discovery_methods.py --seeds 0 1 2 [--masked] [--methods "MM-GCD" ...] [--precision bf16-mixed]

Each method is trained by configs/discovery/fashion_products.yaml, K known, by the protocol of the set; the last weights
count. Accuracy is on the unlabelled training samples (transductive) and on the test samples (inductive), with one
assignment of prototypes to classes. With `--masked`, titles lack the words that name the class, and photos,
which then count more, are of 64 pixels in place of 40.
"""

import argparse
import csv
import json
import statistics
from pathlib import Path

from runs import SETS, call

DATA = SETS / "fashion-products"
SIMGCD = json.dumps(
    {"class_path": "mmmask.discovery.SimGCD", "init_args": {"evenness": 4.0, "contrast_temperature": 0.1}}
)
MEAN = ["--model.fusion", json.dumps({"class_path": "mmmask.discovery.MeanFusion"}), "--model.objective", SIMGCD]
GCD = ["--model.features_first", "1", *MEAN]  # contrast alone, then k-means that keeps labelled rows in their class
JOINED, TITLES = (
    ["--model.encoder.looks", looks] for looks in ('{"both": ["pixels", "title"]}', '{"title": ["title"]}')
)
OBJECTIVE = "--model.objective.init_args"
METHODS = {  # name: options
    "MM-GCD": [],
    "MM-GCD without feature alignment": [f"{OBJECTIVE}.feature_alignment", "false"],
    "MM-GCD without output alignment": [f"{OBJECTIVE}.output_alignment", "false"],
    "MM-GCD without alignment": [f"{OBJECTIVE}.feature_alignment", "false", f"{OBJECTIVE}.output_alignment", "false"],
    "SimGCD on joined features": [*JOINED, *MEAN],
    "SimGCD on titles": [*TITLES, *MEAN],
    "SimGCD on photos": ["--model.encoder.looks", '{"pixels": ["pixels"]}', *MEAN],
    "GCD on joined features": [*JOINED, *GCD],
    "GCD on titles": [*TITLES, *GCD],
}
TITLE, PIXELS = "--data.modalities.title.init_args", "--model.encoder.modalities.pixels.init_args"
MASKED = [f"{TITLE}.field", "json", f"{TITLE}.part", "title_masked"]
MASKED += ["--data.modalities.photo.init_args.size", "64", f"{PIXELS}.image_size", "64", f"{PIXELS}.patch", "16"]
SCORES = ("all", "old", "new")


def trained(out, method, seed, titles, *options):
    """The last scores of a method, and the seconds of its training."""
    protocol, words = out / "protocol.json", out / "words.json"
    call(out / "protocol", "protocol", f"{DATA}/train-*.tar", protocol, "--given", "labelled")
    call(out / "words", "vocabulary", f"{DATA}/train-*.tar", words, "--size", 4000, "--sentinels", 16)
    folder = out / f"{method.replace(' ', '-')}-{seed}"
    settings = ["--config", "configs/discovery/fashion_products.yaml", "--seed_everything", seed]
    settings += ["--data.train", f"{DATA}/train-*.tar", "--data.val", f"{DATA}/test-*.tar"]
    settings += ["--model.protocol", protocol, "--data.labelled.protocol", protocol, "--model.seed", seed]
    settings += ["--model.encoder.modalities.title.init_args.vocabulary", words, *titles, *METHODS[method]]
    seconds = call(folder, "fit", *settings, *options, "--trainer.default_root_dir", folder)
    with open(folder / "run-1" / "metrics.csv", newline="") as stream:
        last = [row for row in csv.DictReader(stream) if row["val/all"]][-1]
    return [100 * float(last[f"val/{where}{name}"]) for where in ("", "inductive/") for name in SCORES], seconds


def told(values):
    return f"{statistics.mean(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--masked", action="store_true", help="titles without the words that name the class")
    parser.add_argument("--precision", default="32-true", help="of trainings; bf16-mixed where it is faster")
    parser.add_argument("--steps", type=int, help="of each training, to see that all of it works")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_discovery_methods"))
    arguments = parser.parse_args()
    out = (arguments.out / ("masked" if arguments.masked else "plain")).absolute()
    options = ["--trainer.precision", arguments.precision]
    if steps := arguments.steps:
        options += ["--trainer.max_steps", steps, "--trainer.val_check_interval", steps]
    titles, seeds = ("masked" if arguments.masked else "plain"), " ".join(map(str, arguments.seeds))
    print(f"K known, the protocol of the set, {titles} titles, seeds {seeds}\n")
    print("| method | transductive All | Old | New | inductive All | Old | New | s |\n" + "|---" * 8 + "|")
    for method in arguments.methods:
        found = [trained(out, method, seed, MASKED if arguments.masked else [], *options) for seed in arguments.seeds]
        columns = [told(values) for values in zip(*(scores for scores, _ in found), strict=True)]
        print(f"| {method} | {' | '.join(columns)} | {told([seconds for _, seconds in found])} |", flush=True)


if __name__ == "__main__":
    main()
