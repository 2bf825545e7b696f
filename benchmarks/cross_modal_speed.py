"""Speed of any-to-any models against a plain implementation of 4M's published code (`plain_fourm.py`), on CPU.

    python benchmarks/cross_modal_speed.py [--rounds 3] [--threads 2] [--batch 1] [--tasks train generate caption masks]

The base size (12+12 blocks, 768 wide, SwiGLU, no biases) with 4M-7's modalities and random weights. `train` is a
training step (forward, backward, AdamW) with 128 known and 128 asked tokens; `generate` decodes a caption into 196
tokens in 12 guided MaskGIT steps; `caption` makes 64 words of 196 tokens, one after the other; `masks` are tokens
that `DirichletMask` splits for whole batches, against code that does one sample after the other. Plain and ours run in
turn in one process for each task; printed are medians, and ratios of each round to plain float32. Tokens are those
that are known or asked, or made. Where the processor has no instructions for bfloat16 (autocast), which is then many
times slower, there is one round of it.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from plain_fourm import PlainFourM, all_known, batch_of
from plain_masks import PlainMasks

from mmmask.catalogue import FOURM_7
from mmmask.heads import answers
from mmmask.masking import Component, DirichletMask
from mmmask.pretrained.fourm import write_fourm
from mmmask.synthesis import Noise, Sampler
from mmmask.synthesis.autoregressive import Autoregressive
from mmmask.synthesis.fourm_schedule import FourMSchedule
from mmmask.synthesis.generator import Conditions
from mmmask.synthesis.target import Target
from mmmask.tokens import Data, tokens_of
from mmmask.transformer import AmongTargets, FourM

BUDGET, WORDS, STEPS, GUIDANCE, SAMPLES = 128, 64, 12, 2.0, 256
MIXTURE = [Component(alpha, alpha) for alpha in (0.01, 0.1, 1.0, 10.0)]
TASKS = {"train": (False, True), "generate": (False, True), "caption": (False,), "masks": (False,)}  # with bfloat16?


def models(modalities, plain=True, **sizes):
    """Ours with random weights, and the plain one with the same; or ours alone."""
    torch.manual_seed(0)
    ours = FourM(modalities, **sizes)
    theirs = PlainFourM(modalities, **sizes) if plain else None
    if theirs is not None:
        theirs.load_state_dict(write_fourm(ours.state_dict(), modalities))
    return ours, theirs


def data_of(modalities, batch, seed=0):
    """Random tokens, and captions and boxes of random lengths."""
    draw, data = np.random.default_rng(seed), {}
    for m in modalities:
        length = draw.integers(m.length // 8, m.length // 2, batch) if m.kind == "sequence" else [m.length] * batch
        low = m.sentinels[1] if m.sentinels else 0
        if m.vocab_size is None:
            ids, values = np.tile(np.arange(m.length), (batch, 1)), torch.rand(batch, m.length, m.channels)
        else:
            ids, values = draw.integers(low, m.vocab_size, (batch, m.length)), None
        data[m.name] = Data(ids, np.array(length), None, values)
    return data


class Training:
    """Steps with new masks each."""

    def __init__(self, modalities, batch, **sizes):
        self.modalities, (self.ours, self.plain) = modalities, models(modalities, **sizes)
        self.mask = DirichletMask(modalities, MIXTURE[2:3], (BUDGET, BUDGET), (BUDGET, BUDGET))
        self.data, self.rule = data_of(modalities, batch), AmongTargets(sequences(modalities))
        settings = {"lr": 1e-4, "betas": (0.9, 0.95), "weight_decay": 0.05}
        learned = [weight for weight in self.plain.parameters() if weight.requires_grad]
        self.optimizers = (
            torch.optim.AdamW(self.ours.parameters(), fused=True, **settings),
            torch.optim.AdamW(learned, **settings),
        )

    def prepare(self, number):
        """What a loader does."""
        batch = len(next(iter(self.data.values())).ids)
        self.question = self.mask(self.data, np.arange(batch, dtype=np.uint64) + number * batch)
        self.batch = batch_of(self.question, self.data, self.modalities)

    def run(self, plain):
        loss, optimizer = self.plain_loss() if plain else self.loss(), self.optimizers[plain]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def loss(self):
        known, asked, wanted = self.question
        features = self.ours.decode(asked, self.ours.encode(known), rule=self.rule)
        return answers.by_modality(answers.errors(self.ours.embedding, asked, features, wanted))

    def plain_loss(self):
        return self.plain.loss(self.batch, BUDGET, BUDGET)


class Generation:
    """Image tokens for captions of 48 words."""

    def __init__(self, modalities, batch, **sizes):
        ours, self.plain = models(modalities, **sizes)
        self.target, self.schedule = Target(ours.eval(), "tok_rgb@224"), FourMSchedule(196, STEPS, guidance=GUIDANCE)
        self.sampler, self.batch, self.seeds = Sampler(self.schedule, tempered=True), batch, range(batch)
        self.number = [m.name for m in modalities].index("caption")
        self.first, low = modalities[self.number].sentinels
        self.caption = torch.randint(low, modalities[self.number].vocab_size, (batch, 48))

    def prepare(self, number):
        """Nothing changes."""

    def run(self, plain):
        if plain:
            blank = all_known(torch.zeros(self.batch, 196, dtype=torch.long), False)
            given = {"caption": all_known(self.caption), "tok_rgb@224": blank}
            return self.plain.generate(given, "tok_rgb@224", self.schedule, GUIDANCE, Noise(self.seeds))
        empty = tokens_of(torch.full((self.batch, 1), self.first), self.number)
        given = Conditions([tokens_of(self.caption, self.number)], empty)
        return self.sampler.sample(self.target, given, self.seeds)


class Captioning:
    """The likeliest words for images as tokens."""

    def __init__(self, modalities, batch, **sizes):
        self.ours, self.plain = models(modalities, **sizes)
        self.number = [m.name for m in modalities].index("tok_rgb@224")
        self.image = torch.randint(modalities[self.number].vocab_size, (batch, 196))

    def prepare(self, number):
        """Nothing changes."""

    def run(self, plain):
        if plain:
            return self.plain.caption({"tok_rgb@224": all_known(self.image)}, "caption", WORDS)
        image, size = tokens_of(self.image, self.number), len(self.image)
        given, spans = Conditions([image], image), torch.full((size,), WORDS)  # more than are made: none ends early
        return Autoregressive(0.0, most=WORDS).sample(self.ours, "caption", given, spans, range(size))[0]


class Masking:
    """Batches of 256 samples."""

    def __init__(self, modalities, batch):
        self.data, self.seeds = data_of(modalities, SAMPLES), np.arange(SAMPLES, dtype=np.uint64)
        self.ours = DirichletMask(modalities, MIXTURE, (BUDGET, BUDGET), (BUDGET, BUDGET))
        self.plain = PlainMasks(modalities, MIXTURE, BUDGET, BUDGET)

    def prepare(self, number):
        """Other masks."""
        self.seeds = self.seeds + np.uint64(SAMPLES)

    def run(self, plain):
        if plain:
            return [self.plain(sample, self.data) for sample in range(SAMPLES)]
        return self.ours(self.data, self.seeds)


JOBS = {"train": Training, "generate": Generation, "caption": Captioning, "masks": Masking}


def sequences(modalities):
    return [number for number, modality in enumerate(modalities) if modality.kind == "sequence"]


def worker(task, batch, threads, rounds):
    """Seconds of each kind in each round, of which the first, in float32, does not count; and peak memory in GiB."""
    torch.set_num_threads(threads)
    job, found = JOBS[task](FOURM_7, batch), []
    for number in range(rounds + 1):
        job.prepare(number)
        lows = [low for low in TASKS[task] if not low or (number and (multiplies_bfloat16() or number == rounds))]
        found.append([timed(job, plain, low) for low in lows for plain in (True, False)])
    print(json.dumps([found[1:], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))


def timed(job, plain, low):
    start = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        job.run(plain)
    return time.perf_counter() - start


def measured(task, arguments):
    command = [sys.executable, __file__, "--worker", task, "--rounds", str(arguments.rounds)]
    command += ["--batch", str(arguments.batch), "--threads", str(arguments.threads)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def multiplies_bfloat16():
    """Whether this processor does; None if it does not say."""
    told = Path("/proc/cpuinfo")
    return any(flag in told.read_text() for flag in ("avx512_bf16", "amx_bf16")) if told.is_file() else None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--worker", choices=TASKS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments.batch, arguments.threads, arguments.rounds)
        return
    slow = "" if multiplies_bfloat16() else " (this processor has no instructions for bfloat16)"
    print("| | s | tokens a second | speed, times plain float32 (range of rounds) | peak GiB |\n|---|---|---|---|---|")
    tokens = {"train": 2 * BUDGET, "generate": 196, "caption": WORDS, "masks": 2 * BUDGET * SAMPLES / arguments.batch}
    for task in arguments.tasks:
        rounds, memory = measured(task, arguments)
        kinds = [f"{name}, {low}" for low in ("float32", f"bfloat16{slow}") for name in ("plain", "ours")]
        for number, kind in enumerate(kinds[: len(rounds[-1])]):
            those = [found for found in rounds if number < len(found)]
            seconds = statistics.median(found[number] for found in those)
            ratios = [found[0] / found[number] for found in those]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            speed = arguments.batch * tokens[task] / seconds
            print(f"| {task}, {kind} | {seconds:.2f} | {speed:,.0f} | {ratio} | {memory:.1f} |", flush=True)


if __name__ == "__main__":
    main()
