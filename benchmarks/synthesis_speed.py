"""Speed of ENAT-L against a plain implementation of the published algorithm (`plain_enat.py`), on CPU.

    python benchmarks/synthesis_speed.py [--rounds 3] [--threads 2] [--batch 4]

Each measurement is a process of its own, plain and ours in turn: generation in 8 steps with guidance, and a training
step (forward, backward, AdamW, moving average; every second one simulates reuse), in float32 and in bfloat16 (weights
for generation, autocast for training). Printed are medians, ratios of pairs, peak memory.
"""

import argparse
import copy
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from plain_enat import PlainENAT

from mmmask.masking import Beta, RatioMask
from mmmask.synthesis import ENATSchedule, ImageGenerator, Noise, Sampler
from mmmask.tokens import Split
from mmmask.transformer import ENAT

TASKS = {"generate": 1, "train": 2}  # how many make a measurement


def model(**sizes):
    """ENAT-L with random weights that are not the identity."""
    torch.manual_seed(0)
    generator = ImageGenerator(ENAT(**sizes))
    for name, parameter in generator.named_parameters():
        if "modulation" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return generator


class Generation:
    """8 steps with guidance, of `batch` images."""

    def __init__(self, batch, plain, low):
        self.model = model().eval()
        if low:
            self.model.bfloat16()
        self.classes, self.noise, self.plain = torch.arange(batch) * 7, Noise(range(batch)), plain

    def run(self, number):
        if self.plain:
            return PlainENAT(self.model).generate(self.classes, self.noise)
        return Sampler(ENATSchedule()).sample(self.model, self.classes, self.noise)


class Training:
    """Steps of training; every second one with features of an earlier step, by the average of the weights."""

    def __init__(self, batch, plain, low):
        self.model, self.plain, self.low = model().train(), plain, low
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        weights = self.model.parameters()
        self.optimizer = torch.optim.AdamW(weights, 4e-4, (0.99, 0.99), weight_decay=0.03, fused=not plain)
        self.ids, self.classes = torch.randint(1024, (batch, 256)), torch.arange(batch)
        self.masks = RatioMask(Beta(), per="batch", keep=1)

    def run(self, number):
        split = self.masks(self.model.tokens(self.ids), generator=torch.Generator().manual_seed(number))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.low):
            loss = (self.plain_loss if self.plain else self.loss)(split, number % 2 == 1)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1e-4)

    def loss(self, split, reuse):
        tokens, memory = self.model.tokens(self.ids), None
        if reuse:
            half = split.known.shape[1] // 2
            with torch.no_grad():
                earlier = Split(split.known[:, half:], split.asked)
                memory = self.average.remember(tokens, earlier, self.average.context(self.classes))
            split = Split(split.known[:, :half], split.asked)
        logits, _ = self.model(tokens, split, self.model.context(self.classes), memory)
        labels = self.ids.gather(1, split.asked)
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), label_smoothing=0.1)

    def plain_loss(self, split, reuse):
        masked = torch.zeros_like(self.ids, dtype=torch.bool).scatter(1, split.asked, True)
        earlier = None
        if reuse:
            before = masked.scatter(1, split.known[:, : split.known.shape[1] // 2], True)
            with torch.no_grad():
                _, earlier = PlainENAT(self.average)(torch.where(before, -1, self.ids), self.classes)
        return PlainENAT(self.model).loss(self.ids, self.classes, masked, earlier)


def worker(task, plain, low, batch, threads):
    """One measurement: seconds, and peak memory in GiB."""
    torch.set_num_threads(threads)
    job = {"generate": Generation, "train": Training}[task](batch, plain, low)
    job.run(0)
    start = time.perf_counter()
    for number in range(TASKS[task]):
        job.run(number)
    seconds = (time.perf_counter() - start) / TASKS[task]
    print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))


def measured(task, plain, low, arguments):
    command = [sys.executable, __file__, "--worker", task, str(int(plain)), str(int(low))]
    command += ["--batch", str(arguments.batch), "--threads", str(arguments.threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        task, plain, low = arguments.worker
        worker(task, plain == "1", low == "1", arguments.batch, arguments.threads)
        return
    print("| | s | speed, times plain float32 (range of rounds) | peak GiB |\n|---|---|---|---|")
    kinds = {"plain, float32": (True, False), "ours, float32": (False, False)}
    kinds |= {"plain, bfloat16": (True, True), "ours, bfloat16": (False, True)}
    for task in arguments.tasks:
        rounds = [[measured(task, *kind, arguments) for kind in kinds.values()] for _ in range(arguments.rounds)]
        for i, name in enumerate(kinds):
            seconds = statistics.median(found[i][0] for found in rounds)
            ratios = [found[0][0] / found[i][0] for found in rounds]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            memory = max(found[i][1] for found in rounds)
            print(f"| {task}, {name} | {seconds:.2f} | {ratio} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
