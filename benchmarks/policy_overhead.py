"""What asking a policy (AdaNAT) costs, at published sizes: AutoNAT-L, 256 tokens, the published policy.

    python benchmarks/policy_overhead.py [--batch 4] [--rounds 9]

A step with guidance (both branches through the model, words drawn and chosen) is timed in turn with what the policy
adds to it. Printed are medians, and the median and range of the ratios of pairs; weights are random.
"""

import argparse
import statistics
import time

import torch

from mmmask.synthesis import AdaptiveSampler, ImageGenerator, Policy
from mmmask.transformer import AutoNAT

STEPS = 8


def seconds(function, *arguments):
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    function(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = ImageGenerator(AutoNAT()).eval().to(device)
    policy = Policy(768, 256, STEPS).eval().to(device)
    given, seeds = torch.arange(arguments.batch, device=device), range(arguments.batch)
    decoding = AdaptiveSampler(policy).explore(model, given, seeds, 0.0)
    _, looked = next(decoding)  # warms up
    step = torch.ones(arguments.batch, dtype=torch.long, device=device)

    def ask():
        policy.decide(policy.aim(policy.mean(looked.features, step), step))

    ask()
    whole, asking = [], []
    for _ in range(arguments.rounds):
        decoding = AdaptiveSampler(policy).explore(model, given, seeds, 0.0)
        whole.append(seconds(next, decoding))
        asking.append(seconds(ask))
    ratios = [b / a for a, b in zip(whole, asking, strict=True)]
    print(f"{device}, {torch.get_num_threads()} threads, batch {arguments.batch}, {arguments.rounds} rounds")
    print(f"step {statistics.median(whole) * 1e3:.1f} ms, policy {statistics.median(asking) * 1e3:.2f} ms", end=", ")
    print(f"share {statistics.median(ratios):.2%} ({min(ratios):.2%}-{max(ratios):.2%})")


if __name__ == "__main__":
    main()
