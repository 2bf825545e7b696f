"""What training ENAT-L and 4M-XL needs on 8, 64 and 512 GPUs: memory, communication, loading, checkpoints.

    python benchmarks/scaling.py        # the tables of docs/scaling.md

Nothing is measured here. Layers add up to blocks, blocks to models, models to a step on a cluster; the tests compare
the sums with published parameter counts and FLOPs, with what autograd keeps and with what FSDP2 sends, at small size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from scaling_models import Cost, Model, Sample, enat, fourm, total

# Assumptions. Of the machines:
NODE = 8  # GPUs of a node
MEMORY = 72e9  # bytes of an H100's 80e9 to plan with: a tenth is left to CUDA, NCCL and fragments
FLOPS = 0.40 * 989e12  # FLOP/s: 40 % of an H100's dense bfloat16 peak (NVIDIA data sheet)
HBM = 3.35e12  # bytes/s of its memory (same)
NVLINK = 450e9  # bytes/s of a GPU, each way, within a node (same)
NETWORK = 50e9  # bytes/s of a GPU between nodes: one 400 Gbit/s InfiniBand adapter each
CALL = 8.4e-6  # s to begin a collective; this and the hops are NCCL's own estimates (src/graph/tuning.cc, Simple)
HOP = {"ring": (3.4e-6, 14e-6), "tree": (4.0e-6, 14e-6)}  # s over NVLink, over the network
DISK = 2e9  # bytes/s that one node writes
GPU_HOURS = 16384 * 54 * 24 / 419  # per interruption: Llama 3, 419 unplanned in 54 days on 16,384 H100
# Of the software:
BUCKET = 25 * 2**20  # bytes that DDP reduces at once (PyTorch's default)

GPUS = (8, 64, 512)


# ---- memory, in bytes


def state_bytes(parameters: float, averaged: bool = False) -> float:
    """Weights, gradients, AdamW's two moments, and the average: float32 each."""
    return parameters * 4 * (4 + averaged)


def kept_bytes(cost: Cost, compute: int = 2) -> float:
    """What autograd keeps for one sample; `compute` bytes an element: 2 in bfloat16, 4 in float32."""
    return cost.kept * compute + cost.kept_float32 * 4


def copy_bytes(cost: Cost) -> float:
    """The bfloat16 copies of the weights that autocast makes and keeps until backward."""
    return cost.matrices * 2


def activation_bytes(model: Model, checkpointed: bool, compute: int = 2) -> float:
    """For one sample. With checkpointing: what enters each block, and all of the one that is computed again."""
    rest = kept_bytes(model.rest, compute)
    if not checkpointed:
        return rest + kept_bytes(total(model.blocks), compute)
    return rest + total(model.blocks).entry * 4 + max(kept_bytes(block, compute) for block in model.blocks)


def logit_bytes(model: Model) -> float:
    """For one sample: logits in bfloat16, their float32 log-probabilities, the float32 gradient of these."""
    return model.logits * (2 + 4 + 4)


def gathered_bytes(model: Model) -> float:
    """FSDP2 at its peak: the root's weights, two blocks' (one fetched ahead), and one unit's gradient, which
    exists in bfloat16 and, to be reduced, in float32."""
    root, block = model.rest.parameters, model.largest.parameters
    return 2 * root + 2 * 2 * block + (2 + 4) * max(root, block)


def sharded_over(strategy: str, gpus: int) -> int:
    return {"DDP": 1, "FSDP": gpus, "HSDP": min(gpus, NODE)}[strategy]


def fixed_bytes(model: Model, strategy: str, gpus: int) -> float:
    """What does not grow with the batch: states, and the weights in the compute type."""
    extra = copy_bytes(total(model.blocks) + model.rest) if strategy == "DDP" else gathered_bytes(model)
    return state_bytes(model.parameters, model.averaged) / sharded_over(strategy, gpus) + extra


def peak_bytes(model: Model, strategy: str, gpus: int, samples: int, checkpointed: bool) -> float:
    """An upper bound: as if all of it were needed at one moment."""
    return fixed_bytes(model, strategy, gpus) + samples * (activation_bytes(model, checkpointed) + logit_bytes(model))


# ---- time, in seconds


def compute_seconds(model: Model, samples: float, checkpointed: bool) -> float:
    """Backward costs two forwards; checkpointing one more of the blocks."""
    flops = (3 + checkpointed) * total(model.blocks).flops + 3 * model.rest.flops
    return samples * flops / FLOPS


def optimizer_seconds(model: Model, strategy: str, gpus: int) -> float:
    """AdamW reads four numbers a parameter and writes three; the average reads two and writes one."""
    return model.parameters / sharded_over(strategy, gpus) * 4 * (7 + 3 * model.averaged) / HBM


def link_speed(gpus: int) -> float:
    """Bytes/s of a ring: between nodes each of its eight strands has an adapter of its own."""
    return NVLINK if gpus <= NODE else min(NVLINK, NODE * NETWORK)


def ring_latency(gpus: int) -> float:
    nodes, (near, far) = math.ceil(gpus / NODE), HOP["ring"]
    return CALL + (gpus - nodes) * near + (nodes - 1) * far


def tree_latency(gpus: int, nodes: int) -> float:
    near, far = HOP["tree"]
    return CALL + 2 * ((gpus / nodes - 1) * near + math.log2(nodes) * far)


@dataclass(frozen=True)
class Traffic:
    """Of one GPU in one step."""

    bytes: float
    transfer: float  # seconds on the links
    latency: float  # seconds of starting and hopping

    @property
    def seconds(self) -> float:
        return self.transfer + self.latency

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.bytes + other.bytes, self.transfer + other.transfer, self.latency + other.latency)


def ddp_traffic(parameters: float, gpus: int) -> Traffic:
    """One ring all-reduce of the float32 gradients, in buckets."""
    sent = 2 * (gpus - 1) / gpus * 4 * parameters
    buckets = math.ceil(4 * parameters / BUCKET)
    return Traffic(sent, sent / link_speed(gpus), buckets * tree_latency(gpus, math.ceil(gpus / NODE)))


def fsdp_traffic(blocks: list[int], root: int, gpus: int, micro_steps: int = 1) -> Traffic:
    """For each micro-batch two all-gathers of every block's bfloat16 weights, one of the root's, which stays for
    backward, and one reduce-scatter of every float32 gradient."""
    sent = (gpus - 1) / gpus * (2 * (2 * sum(blocks) + root) + 4 * (sum(blocks) + root)) * micro_steps
    calls = (3 * len(blocks) + 2) * micro_steps
    return Traffic(sent, sent / link_speed(gpus), calls * ring_latency(gpus))


def traffic(model: Model, strategy: str, gpus: int, micro_steps: int) -> Traffic:
    """HSDP is FSDP within each node, then an all-reduce of each shard between the nodes."""
    if strategy == "DDP":
        return ddp_traffic(model.parameters, gpus)
    blocks, nodes = [block.parameters for block in model.blocks], math.ceil(gpus / NODE)
    inside = fsdp_traffic(blocks, model.rest.parameters, sharded_over(strategy, gpus), micro_steps)
    if strategy == "FSDP" or nodes == 1:
        return inside
    sent = 2 * (nodes - 1) / nodes * 4 * model.parameters / NODE
    calls = len(blocks) + 1
    return inside + Traffic(sent, sent / NETWORK, calls * tree_latency(nodes, nodes))


# ---- a step


@dataclass(frozen=True)
class Step:
    """One way to make a step: `micro` samples at a time, with or without activation checkpointing."""

    model: Model
    strategy: str
    gpus: int
    micro: int
    checkpointed: bool

    @property
    def samples(self) -> int:
        return self.model.batch // self.gpus

    @property
    def traffic(self) -> Traffic:
        return traffic(self.model, self.strategy, self.gpus, math.ceil(self.samples / self.micro))

    @property
    def compute(self) -> float:
        return compute_seconds(self.model, self.samples, self.checkpointed)

    @property
    def optimizer(self) -> float:
        return optimizer_seconds(self.model, self.strategy, self.gpus)

    @property
    def seconds(self) -> float:
        """Without any overlap of computing and communicating."""
        return self.compute + self.traffic.seconds + self.optimizer

    @property
    def overlapped_seconds(self) -> float:
        """With all of it: the best that can be hoped for."""
        return max(self.compute, self.traffic.seconds) + self.optimizer


def fitting_samples(model: Model, strategy: str, gpus: int, checkpointed: bool) -> int:
    free = MEMORY - fixed_bytes(model, strategy, gpus)
    return max(0, int(free / (activation_bytes(model, checkpointed) + logit_bytes(model))))


def best_step(model: Model, strategy: str, gpus: int) -> Step | None:
    """The faster of with and without activation checkpointing, none if neither fits; powers of two at a time."""
    steps = []
    for checkpointed in (False, True):
        fits = fitting_samples(model, strategy, gpus, checkpointed)
        micro = min(model.batch // gpus, 1 << fits.bit_length() >> 1)
        if micro:
            steps.append(Step(model, strategy, gpus, micro, checkpointed))
    return min(steps, key=lambda step: step.seconds, default=None)


def strategies(gpus: int) -> tuple[str, ...]:
    return ("DDP", "FSDP", "HSDP") if gpus > NODE else ("DDP", "FSDP")  # in one node the last two are the same


def best_steps(model: Model) -> list[Step]:
    """Of each strategy on each number of GPUs."""
    found = [best_step(model, strategy, gpus) for gpus in GPUS for strategy in strategies(gpus)]
    return [step for step in found if step]


# ---- loading and checkpoints


def samples_per_second(model: Model) -> float:
    """The most that one GPU asks for: it computes without ever waiting."""
    return 1 / compute_seconds(model, 1, checkpointed=False)


def checkpoint_bytes(model: Model) -> float:
    """Weights, both moments, and the average: float32."""
    return model.parameters * 4 * (3 + model.averaged)


def hours_between_failures(gpus: int) -> float:
    return GPU_HOURS / gpus


def checkpoint_interval(write: float, between_failures: float) -> float:
    """Young (1974), Daly's first order: sqrt(2 x write x time between failures)."""
    return math.sqrt(2 * write * between_failures)


def lost_share(write: float, between_failures: float) -> float:
    """Of the time, at that interval: writing, and half an interval done again after each failure."""
    interval = checkpoint_interval(write, between_failures)
    return write / interval + interval / (2 * between_failures)


# ---- tables


def markdown(columns: str, rows: Iterable[tuple[str, ...]]) -> str:
    names = [name.strip() for name in columns.split("|")]
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def model_table(models: tuple[Model, ...]) -> str:
    def row(model: Model) -> tuple[str, ...]:
        flops = 3 * (total(model.blocks) + model.rest).flops
        kept = [f"{activation_bytes(model, checkpointed) / 1e6:,.0f}" for checkpointed in (False, True)]
        blocks = f"{total(model.blocks).parameters / 1e6:,.1f} M"
        parameters = f"{model.parameters / 1e6:,.1f} M"
        return model.name, parameters, blocks, f"{flops / 1e9:,.0f}", *kept, f"{logit_bytes(model) / 1e6:,.1f}"

    columns = "model | parameters | in blocks | GFLOP | activations, MB | checkpointed, MB | logits, MB"
    return markdown(columns, map(row, models))


def memory_table(models: tuple[Model, ...]) -> str:
    """Without HSDP: its states are those of FSDP on one node."""

    def row(step: Step) -> tuple[str, ...]:
        model, way = step.model, (step.model, step.strategy, step.gpus)
        states = state_bytes(model.parameters, model.averaged) / sharded_over(step.strategy, step.gpus)
        kept = step.micro * activation_bytes(model, step.checkpointed)
        parts = (states, fixed_bytes(*way) - states, kept, step.micro * logit_bytes(model))
        size = f"{step.samples // step.micro} x {step.micro}" + (", checkpointed" if step.checkpointed else "")
        fits = (f"{fitting_samples(*way, checkpointed):,}" for checkpointed in (False, True))
        memory = (f"{part / 1e9:.1f}" for part in (*parts, peak_bytes(*way, step.micro, step.checkpointed)))
        return model.name, str(step.gpus), step.strategy, *fits, size, *memory

    columns = "model | GPUs | | fit | checkpointed | a step | states | copies | activations | logits | peak, GB"
    steps = (step for model in models for step in best_steps(model) if step.strategy != "HSDP")
    return markdown(columns, map(row, steps))


def step_table(models: tuple[Model, ...]) -> str:
    def row(step: Step) -> tuple[str, ...]:
        sent = step.traffic
        times = (step.compute, sent.transfer, sent.latency, step.optimizer, step.seconds, step.overlapped_seconds)
        days = f"{step.seconds * step.model.steps / 86400:.1f}"
        shape = (step.model.name, str(step.gpus), step.strategy, f"{sent.bytes / 1e9:.1f}")
        return (
            *shape,
            *(f"{1000 * time:,.1f}" for time in times),
            f"{sent.seconds / step.seconds:.0%}",
            days,
        )

    columns = "model | GPUs | | GB sent | compute | transfer | latency | AdamW | step | overlapped | sending | days"
    return markdown(columns, (row(step) for model in models for step in best_steps(model)))


def loader_table(models: tuple[Model, ...]) -> str:
    def row(model: Model, sample: Sample) -> tuple[str, ...]:
        rate = samples_per_second(model)
        rates = (f"{rate:,.0f}", f"{NODE * rate:,.0f}", f"{NODE * rate * sample.seconds:.1f}")
        speeds = (f"{gpus * rate * sample.bytes / 1e9:.2f}" for gpus in GPUS)
        return model.name, sample.name, f"{sample.bytes:,.0f}", *rates, *speeds

    columns = "model | reads | bytes | samples/s of a GPU | of a node | processes of a node | GB/s, 8 GPUs | 64 | 512"
    return markdown(columns, (row(model, sample) for model in models for sample in model.samples))


def checkpoint_table(models: tuple[Model, ...]) -> str:
    def row(model: Model, gpus: int) -> tuple[str, ...]:
        size, failures = checkpoint_bytes(model), hours_between_failures(gpus) * 3600
        cells = [model.name, str(gpus), f"{size / 1e9:.1f}", f"{failures / 3600:,.0f}"]
        for writers in (1, gpus // NODE):
            write = size / DISK / writers
            interval = checkpoint_interval(write, failures) / 60
            cells += [f"{write:.1f}", f"{interval:.0f}", f"{lost_share(write, failures):.2%}"]
        return tuple(cells)

    columns = "model | GPUs | GB | failure each, h | full, s | every, min | lost | sharded, s | every, min | lost"
    return markdown(columns, (row(model, gpus) for model in models for gpus in GPUS))


TABLES = (model_table, memory_table, step_table, loader_table, checkpoint_table)


def main() -> None:
    models = (enat(), fourm())
    print("\n\n".join(table(models) for table in TABLES))


if __name__ == "__main__":
    main()
