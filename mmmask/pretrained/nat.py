"""Weights of AutoNAT and ENAT under their published names, and under ours: pure maps of names, both ways."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from mmmask.errors import UserError

State = dict[str, Tensor]

BLOCK = {  # ours: theirs
    "norm_attention": "norm1",
    "attention.qkv": "attn.qkv",
    "attention.kv_memory": "attn.kv.A",
    "attention.out": "attn.proj",
    "norm_mlp": "norm2",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
    "merge": "skip_linear",
    "modulation.1": "adaLN_modulation.1",
}
REST = {
    "backbone.norm": "norm",
    "backbone.classes": "y_embedder.embedding_table",
    "backbone.reuse.norm": "prev_proj.norm",
    "backbone.reuse.mlp.0": "prev_proj.mlp.fc1",
    "backbone.reuse.mlp.2": "prev_proj.mlp.fc2",
    "head.project": "mlm_layer.fc",
    "head.norm": "mlm_layer.ln",
}
EMBEDDING = {  # ours: theirs, for each modality one below the other
    "words.weight": "word_embeddings.weight",
    "positions.weight": "position_embeddings.weight",
    "norm_weight": "LayerNorm.weight",
    "norm_bias": "LayerNorm.bias",
}


def read_autonat(published: Mapping[str, Tensor]) -> State:
    """Weights of an `ImageGenerator(AutoNAT(...))` from those of `nnet_ema.pth`."""
    left = _cleaned(published)
    depth = 1 + max(int(name.split(".")[1]) for name in left if name.startswith("in_blocks."))
    blocks = [f"in_blocks.{i}" for i in range(depth)] + ["mid_block"] + [f"out_blocks.{i}" for i in range(depth)]
    names = {f"backbone.decoder.blocks.{i}": block for i, block in enumerate(blocks)}
    state = _embedding(left, ["token_emb", "context_embed"])
    return _finished(left, state, names)


def read_enat(published: Mapping[str, Tensor], encoder_depth: int) -> State:
    """Weights of an `ImageGenerator(ENAT(...))`; where the decoder begins the published file does not tell."""
    left = _cleaned(published)
    for name in [name for name in left if name.startswith("prev_embedder.")]:
        del left[name]  # the published model has it and never uses it
    blocks = 1 + max(int(name.split(".")[1]) for name in left if name.startswith("blocks."))
    for i in range(blocks):
        for kind in ("weight", "bias"):
            q, kv = left.pop(f"blocks.{i}.attn.q.{kind}"), left.pop(f"blocks.{i}.attn.kv.B.{kind}")
            left[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat([q, kv])
    state = _embedding(left, ["x_embedder"])
    return _finished(left, state, {_enat_block(i, encoder_depth): f"blocks.{i}" for i in range(blocks)})


def write_autonat(state: Mapping[str, Tensor]) -> State:
    """The published names and shapes for weights of an `ImageGenerator(AutoNAT(...))`."""
    depth = len({name.split(".")[3] for name in state if name.startswith("backbone.decoder.blocks.")})
    half = depth // 2
    blocks = [f"in_blocks.{i}" for i in range(half)] + ["mid_block"] + [f"out_blocks.{i}" for i in range(half)]
    names = {f"backbone.decoder.blocks.{i}": block for i, block in enumerate(blocks)}
    vocab = len(state["head.bias"])
    rows = {"words.weight": vocab + 1, "positions.weight": -1, "norm_weight": 1, "norm_bias": 1}
    published = _published(state, names)
    for ours, theirs in EMBEDDING.items():
        both = state[f"backbone.embedding.{ours}"]
        for name, part in (("token_emb", both[: rows[ours]]), ("context_embed", both[rows[ours] :])):
            published[f"{name}.{theirs}"] = part[0] if ours.startswith("norm") else part
    return published


def write_enat(state: Mapping[str, Tensor]) -> State:
    """The published names and shapes for weights of an `ImageGenerator(ENAT(...))`, the unused part as zeros."""
    blocks = {name.split(".blocks.")[0] + "." + name.split(".")[3] for name in state if ".blocks." in name}
    encoder_depth = sum("encoder" in block for block in blocks)
    names = {_enat_block(i, encoder_depth): f"blocks.{i}" for i in range(len(blocks))}
    published = _published(state, names)
    for i in range(len(blocks)):
        for kind in ("weight", "bias"):
            qkv = published.pop(f"blocks.{i}.attn.qkv.{kind}")
            q, kv = qkv.split([len(qkv) // 3, len(qkv) // 3 * 2])
            published |= {f"blocks.{i}.attn.q.{kind}": q, f"blocks.{i}.attn.kv.B.{kind}": kv}
    for ours, theirs in EMBEDDING.items():
        both = state[f"backbone.embedding.{ours}"]
        published[f"x_embedder.{theirs}"] = both[0] if ours.startswith("norm") else both
    for layer in ("fc1", "fc2"):
        for kind in ("weight", "bias"):
            like = published[f"prev_proj.mlp.{layer}.{kind}"]
            published[f"prev_embedder.{layer}.{kind}"] = torch.zeros_like(like)
    return published


def _enat_block(number: int, encoder_depth: int) -> str:
    side, i = ("encoder", number) if number < encoder_depth else ("decoder", number - encoder_depth)
    return f"backbone.{side}.blocks.{i}"


def _cleaned(published: Mapping[str, Tensor]) -> State:
    """Without what parallel training and older libraries left in the names."""
    names = {name: name.removeprefix("module.") for name in published if "position_ids" not in name}
    return {new: published[old] for old, new in names.items()}


def _embedding(left: State, tables: list[str]) -> State:
    """Takes the embeddings of all modalities out of `left`, one below the other."""
    state = {}
    for ours, theirs in EMBEDDING.items():
        parts = [left.pop(f"{table}.{theirs}") for table in tables]
        state[f"backbone.embedding.{ours}"] = torch.stack(parts) if ours.startswith("norm") else torch.cat(parts)
    return state


def _finished(left: State, state: State, blocks: Mapping[str, str]) -> State:
    state["head.bias"] = left.pop("mlm_layer.bias").flatten()[:-1]  # the last one is that of the blank, never used
    names = _names(blocks)
    for ours, theirs in names.items():
        for kind in ("weight", "bias"):
            if f"{theirs}.{kind}" in left:
                state[f"{ours}.{kind}"] = left.pop(f"{theirs}.{kind}")
    if left:
        raise UserError(f"the checkpoint has weights that this model has no place for: {', '.join(sorted(left)[:5])}.")
    return state


def _published(state: Mapping[str, Tensor], blocks: Mapping[str, str]) -> State:
    published = {"mlm_layer.bias": F.pad(state["head.bias"], (0, 1))[None, None]}
    for ours, theirs in _names(blocks).items():
        for kind in ("weight", "bias"):
            if f"{ours}.{kind}" in state:
                published[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]
    return published


def _names(blocks: Mapping[str, str]) -> dict[str, str]:
    inside = {f"{a}.{x}": f"{b}.{y}" for a, b in blocks.items() for x, y in BLOCK.items()}
    return {**REST, **inside}
