"""Parameters, FLOPs and kept activations of ENAT and 4M: layers add up to blocks, blocks to models."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

TOKEN_ARRAYS, JPEGS = 64944 / 2, 3660 / 2  # samples/s of one loader process: docs/results/loading.md, two processes
JPEG_BYTES = 17_500  # mean of 300 of that benchmark's 256 px JPEGs
ARRAY_HEADER = 128  # bytes of an .npy before its numbers
TEXT_BYTES = 250  # of a caption or a list of boxes: a guess, and of no weight


@dataclass(frozen=True)
class Cost:
    """What a part of a model needs for one sample. Elements are counted here; their bytes depend on the precision."""

    parameters: int = 0
    matrices: int = 0  # of these, what autocast copies to the compute type
    flops: float = 0  # of forward; a multiply-add is two
    kept: float = 0  # elements kept for backward in the compute type
    kept_float32: float = 0  # the same, in float32 whatever the compute type: the residual stream, statistics
    entry: float = 0  # float32 elements that come in: all that activation checkpointing keeps

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(Cost)))


def total(costs: Iterable[Cost]) -> Cost:
    return sum(costs, Cost())


# ---- layers. What a layer keeps follows from its formula: a product keeps its factors, a norm its input.


def linear(n: int, inputs: int, outputs: int, bias: bool = True, keeps_input: bool = True) -> Cost:
    """`keeps_input=False`: its input is kept already, by the attention or the linear beside it."""
    weights = inputs * outputs
    return Cost(weights + bias * outputs, weights, 2 * n * weights, kept=n * inputs * keeps_input)


def norm(n: int, dim: int, parameters: int = 2, keeps_input: bool = True) -> Cost:
    """`parameters` vectors: weight and bias, weight alone, none. Mean and deviation are kept for each token."""
    return Cost(parameters * dim, kept_float32=n * (dim * keeps_input + 2))


def modulated_norm(n: int, dim: int, keeps_input: bool = True) -> Cost:
    """LN(x) * (1 + scale) + shift: the product also keeps LN(x)."""
    return norm(n, dim, parameters=0, keeps_input=keeps_input) + Cost(kept_float32=n * dim)


def attention(queries: int, keys: int, dim: int, heads: int) -> Cost:
    """Fused: q, k, v, the output (which the next linear shares) and one number per query and head."""
    flops = 4 * queries * keys * dim
    return Cost(flops=flops, kept=dim * (2 * queries + 2 * keys), kept_float32=queries * heads)


def mlp(n: int, dim: int, hidden: int) -> Cost:
    return linear(n, dim, hidden) + Cost(kept=n * hidden) + linear(n, hidden, dim)


def gated_mlp(n: int, dim: int) -> Cost:
    """fc2(silu(fc1 x) * fc3 x) without biases (4M): both branches and silu's output are kept."""
    hidden = int(2 / 3 * 4 * dim)
    branches = linear(n, dim, hidden, bias=False) + linear(n, dim, hidden, bias=False, keeps_input=False)
    return branches + Cost(kept=3 * n * hidden) + linear(n, hidden, dim, bias=False)


# ---- blocks


def plain_block(n: int, dim: int, heads: int, mlp_ratio: float = 4.0) -> Cost:
    """`mmmask.transformer.Block`."""
    attend = linear(n, dim, 3 * dim) + attention(n, n, dim, heads) + linear(n, dim, dim, keeps_input=False)
    return Cost(entry=n * dim) + norm(n, dim) + attend + norm(n, dim) + mlp(n, dim, int(dim * mlp_ratio))


def enat_block(own: int, known: int, dim: int, heads: int) -> Cost:
    """ENAT: `own` tokens attend to themselves and to `known` ones; the class shifts, scales and gates each step."""
    modulation = linear(1, dim, 8 * dim)
    keys_of_known = modulated_norm(known, dim, keeps_input=False) + linear(known, dim, 2 * dim)
    out = linear(own, dim, dim, keeps_input=False)
    attend = linear(own, dim, 3 * dim) + keys_of_known + attention(own, own + known, dim, heads) + out
    gates = Cost(kept=2 * own * dim)  # each gate keeps what it scales
    norms = modulated_norm(own, dim) + modulated_norm(own, dim)
    return Cost(entry=own * dim) + modulation + norms + attend + gates + mlp(own, dim, 4 * dim)


def fourm_self_attention(n: int, dim: int, heads: int) -> Cost:
    project = linear(n, dim, 3 * dim, bias=False)
    out = linear(n, dim, dim, bias=False, keeps_input=False)
    return Cost(entry=n * dim) + norm(n, dim, 1) + project + attention(n, n, dim, heads) + out


def fourm_encoder_block(n: int, dim: int, heads: int) -> Cost:
    return fourm_self_attention(n, dim, heads) + norm(n, dim, 1) + gated_mlp(n, dim)


def fourm_decoder_block(n: int, context: int, dim: int, heads: int) -> Cost:
    norms = norm(n, dim, 1) + norm(context, dim, 1, keeps_input=False) + norm(n, dim, 1)
    project = linear(n, dim, dim, bias=False) + linear(context, dim, 2 * dim, bias=False)
    out = linear(n, dim, dim, bias=False, keeps_input=False)
    cross = project + attention(n, context, dim, heads) + out
    return fourm_self_attention(n, dim, heads) + norms + cross + gated_mlp(n, dim)


# ---- models


@dataclass(frozen=True)
class Sample:
    """What is read of one sample: arrays of 16-bit tokens by their lengths, texts, JPEGs."""

    name: str
    arrays: tuple[int, ...] = ()
    texts: int = 0
    jpegs: int = 0

    @property
    def bytes(self) -> float:
        return (
            sum(ARRAY_HEADER + 2 * length for length in self.arrays) + self.texts * TEXT_BYTES + self.jpegs * JPEG_BYTES
        )

    @property
    def seconds(self) -> float:
        """Of one loader process; a text is taken to cost what an array costs."""
        return (len(self.arrays) + self.texts) / TOKEN_ARRAYS + self.jpegs / JPEGS


@dataclass(frozen=True)
class Model:
    """Blocks, each sharded and checkpointed on its own, and the rest: embeddings and head, the root of FSDP2."""

    name: str
    blocks: tuple[Cost, ...]
    rest: Cost
    logits: float  # elements for one sample
    batch: int  # of all GPUs together
    steps: int
    averaged: bool  # keeps an exponential average of the weights
    samples: tuple[Sample, ...]  # ways to store them

    @property
    def parameters(self) -> int:
        return total(self.blocks).parameters + self.rest.parameters

    @property
    def largest(self) -> Cost:
        return max(self.blocks, key=lambda block: block.parameters)


def enat(
    dim: int = 1024, heads: int = 16, encoder: int = 22, decoder: int = 2, tokens: int = 256, masked: int = 205
) -> Model:
    """ENAT, by default ENAT-L at 256 px with the mean mask ratio of its training, 0.8, and no reused features."""
    vocabulary, classes, visible = 1024, 1000, tokens - masked
    blocks = encoder * [enat_block(visible, 0, dim, heads)] + decoder * [enat_block(masked, visible, dim, heads)]
    tables = Cost((vocabulary + 1 + tokens + classes + 1) * dim) + norm(tokens, dim)
    reuse = Cost(2 * dim + 2 * mlp(0, dim, 4 * dim).parameters)  # prev_proj, and an MLP that is never used
    head = norm(tokens, dim) + linear(tokens, dim, dim) + Cost(kept=tokens * dim) + norm(tokens, dim)
    words = linear(tokens, dim, vocabulary, bias=False)
    tied = Cost(vocabulary + 1 - words.parameters, -words.matrices) + words  # the word table again, and a bias
    rest = tables + reuse + head + tied
    samples = (Sample("tokens", (tokens,)), Sample("JPEG", jpegs=1))
    return Model("ENAT-L", tuple(blocks), rest, tokens * vocabulary, 2048, 500_000, True, samples)


def fourm(dim: int = 2048, heads: int = 32, layers: int = 24, known: int = 128, asked: int = 128) -> Model:
    """4M on its seven modalities, by default 4M-XL; 500 billion known and asked tokens in batches of 8192."""
    vocabularies = (16384, 8192, 8192, 8192, 4096, 30_000, 30_000)
    encoder = layers * [fourm_encoder_block(known, dim, heads)]
    decoder = layers * [fourm_decoder_block(asked, known, dim, heads)]
    tables = Cost(2 * sum(vocabularies) * dim + 3 * 16 * 16 * dim)  # encoder's, decoder's (tied to the head), pixels
    seams = norm(known, dim, 1) + linear(known, dim, dim) + Cost(kept_float32=known * dim) + norm(asked, dim, 1)
    logits = asked * sum(vocabularies) / len(vocabularies)  # targets spread evenly over the modalities
    head = Cost(flops=2 * logits * dim, kept=asked * dim)
    steps = round(500e9 / (known + asked) / 8192)
    grids = (196,) * 5
    samples = (Sample("tokens", grids, texts=2), Sample("tokens, JPEG", grids, texts=2, jpegs=1))
    return Model("4M-XL", tuple(encoder + decoder), tables + seams + head, logits, 8192, steps, False, samples)
