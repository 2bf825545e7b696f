"""What an any-to-any backbone is worth to image synthesis, on OpenMoji drawings (`emoji-aligned`).

    python benchmarks/transfer_images.py --seeds 1 2 3

For each seed the same backbone learns to draw by group, from scratch in 600 steps, and in half and a quarter of them
when it begins with the any-to-any model of benchmarks/cross_modal.py (trained first if it is not there). The learning
rate of each falls to zero at its end. 1,000 pictures of each, in 8 guided steps, are looked at by a classifier that was
trained on the real ones: Frechet distance to these, and consistency, the share in which it sees the group asked for.
"""

import argparse
import json
from pathlib import Path

import emoji
import torch
from image_sets import EMOJI, drawn_and_scored, judge, remembered
from runs import call

from mmmask.synthesis import CosineSchedule, Sampler
from tasks.finished import model_of

STEPS = 600
WAYS = {"from scratch": (STEPS, False), "pre-trained, half": (STEPS // 2, True), "a quarter": (STEPS // 4, True)}


def trained(out, models, seed, name, *options):
    """The folder of a model that draws."""
    steps, begins = WAYS[name]
    folder = out / f"{'begun' if begins else 'scratch'}-{steps}-{seed}"
    settings = ["--config", "configs/synthesis/emoji_fourm.yaml", "--seed_everything", seed]
    settings += ["--data.train", EMOJI.train, "--data.val", EMOJI.test, "--model.tokenizer", models / "openmoji"]
    settings += ["--trainer.max_steps", steps, "--trainer.val_check_interval", steps]
    settings += ["--model.init_from", models / f"model-{seed}" / "run-1"] if begins else []
    call(folder, "fit", *settings, *options, "--trainer.default_root_dir", folder)
    return folder


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--models", type=Path, default=Path("runs/benchmark_cross_modal_emoji"), help="any-to-any ones")
    parser.add_argument("--precision", default="32-true", help="of trainings; bf16-mixed where it is faster")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark_transfer_images"))
    arguments = parser.parse_args()
    out, models = arguments.out.absolute(), arguments.models.absolute()
    precision = ["--trainer.precision", arguments.precision]
    real, labels = EMOJI.pictures("train")
    look = judge(out / "judge.safetensors", real, labels, EMOJI.judge_epochs)
    sampler = Sampler(CosineSchedule(8, guidance=1.0))
    print("| | steps | seed | Frechet distance | consistency | training, s |\n|---|---|---|---|---|---|")
    for seed in arguments.seeds:
        emoji.trained(models, seed, *precision)
        for name, (steps, _) in WAYS.items():
            folder = trained(out, models, seed, name, *precision)
            seconds = json.loads((folder / "seconds.json").read_text())
            given = model_of(folder), sampler, torch.float32, look, real
            found = remembered(folder / "scores.json", drawn_and_scored, *given)
            scores = f"{found['frechet_distance']:.3f} | {found['consistency']:.3f}"
            print(f"| {name} | {steps} | {seed} | {scores} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
