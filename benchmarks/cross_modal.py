"""Any-to-any models of real sets: what they predict, and what they find again, against the sets' baselines,
or what is to be reached of the attainable.

    python benchmarks/cross_modal.py --seeds 1 2 3 [--data omniglot-strokes | shapes-world] [--precision bf16-mixed]

What is not there yet is trained with the shipped configurations: tokenizers of pictures, the words of texts, and a
model for each seed.
"""

import argparse
import json
import statistics
from pathlib import Path

import emoji
import omniglot
import shapes_world

KINDS = {"emoji-aligned": emoji, "omniglot-strokes": omniglot, "shapes-world": shapes_world}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=KINDS, default="emoji-aligned")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--precision", default="32-true", help="of models' training; bf16-mixed where it is faster")
    parser.add_argument("--out", type=Path, help="folder of models (default: runs/benchmark_cross_modal_...)")
    arguments = parser.parse_args()
    kind, rows = KINDS[arguments.data], []
    out = (arguments.out or Path("runs") / f"benchmark_cross_modal_{kind.__name__}").absolute()
    baselines = kind.baselines()
    for seed in arguments.seeds:
        model, seconds = kind.trained(out, seed, "--trainer.precision", arguments.precision)
        rows.append({**kind.scores(model), "training, minutes": seconds / 60})
        print(f"seed {seed}: {json.dumps(rows[-1])}", flush=True)
    print("| | mean (range) | baseline |")
    print("|---|---|---|")
    for name in rows[0]:
        values = [row[name] for row in rows]
        spread = f"{statistics.mean(values):.4f} ({min(values):.4f}-{max(values):.4f})"
        print(f"| {name} | {spread} | {f'{baselines[name]:.4f}' if name in baselines else ''} |")


if __name__ == "__main__":
    main()
