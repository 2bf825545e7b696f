"""Weights of 4M under their published names, and under ours: pure maps of names, both ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mmmask.errors import UserError
from mmmask.modalities import Modality
from mmmask.pretrained.nat import State
from mmmask.transformer.placed_embedding import fixed_places
from mmmask.transformer.vocabularies import starts

NORMS = {  # of a block, ours: theirs
    "norm_attention": "norm1",
    "attention.norm_q": "attn.q_norm",
    "attention.norm_k": "attn.k_norm",
    "norm_mlp": "norm2",
}
ATTENTION = {"attention.qkv": "attn.qkv", "attention.out": "attn.proj"}
MLP = {"mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
GATED = {"mlp.gate": "mlp.fc1", "mlp.up": "mlp.fc3", "mlp.down": "mlp.fc2"}
CROSS = {"cross.q": "cross_attn.q", "cross.kv_memory": "cross_attn.kv", "cross.out": "cross_attn.proj"}
CROSS_NORMS = {
    "norm_cross": "query_norm",
    "norm_memory": "context_norm",
    "cross.norm_q": "cross_attn.q_norm",
    "cross.norm_k": "cross_attn.k_norm",
}
LAST_NORMS = {"handover.norm": "encoder_norm", "norm": "decoder_norm"}


def read_fourm(published: Mapping[str, Tensor], modalities: Sequence[Modality]) -> State:
    """Weights of a `FourM(modalities, ...)` from those of a published checkpoint."""
    left = dict(published)
    state = _embedding(left, modalities)
    if "register_tokens" in left:
        state["registers"] = left.pop("register_tokens")[0]
    depths = _depth(published, "encoder"), _depth(published, "decoder")
    biased = "encoder.0.attn.qkv.bias" in published
    for ours, theirs, is_norm in _names(*depths, gated="encoder.0.mlp.fc3.weight" in published):
        for kind in ("weight", "bias"):
            if (value := left.pop(f"{theirs}.{kind}", None)) is None:
                continue
            if kind == "weight" or biased or not is_norm:
                state[f"{ours}.{kind}"] = value
            elif value.any():  # without biases there are zeros
                raise UserError(f"the checkpoint has a bias of a norm, {theirs}.{kind}, though it has none elsewhere.")
    if left:
        raise UserError(f"the checkpoint has weights that this model has no place for: {', '.join(sorted(left)[:5])}.")
    return state


def write_fourm(state: Mapping[str, Tensor], modalities: Sequence[Modality]) -> State:
    """The published names and shapes for weights of a `FourM(modalities, ...)`."""
    depths = _depth(state, "encoder.blocks"), _depth(state, "decoder.blocks")
    published = _published_embedding(state, modalities)
    if "registers" in state:
        published["register_tokens"] = state["registers"][None]
    for ours, theirs, is_norm in _names(*depths, gated="encoder.blocks.0.mlp.gate.weight" in state):
        for kind in ("weight", "bias"):
            if f"{ours}.{kind}" in state:
                published[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]
            elif is_norm and f"{ours}.weight" in state:
                published[f"{theirs}.bias"] = torch.zeros_like(state[f"{ours}.weight"])
    return published


def _names(encoder_depth: int, decoder_depth: int, gated: bool) -> Iterator[tuple[str, str, bool]]:
    """Our name, theirs, and whether it is a norm, of all but embeddings."""
    rest = ATTENTION | (GATED if gated else MLP)
    norms_of_decoder = {a: b.replace("attn.", "self_attn.") for a, b in NORMS.items()} | CROSS_NORMS
    rest_of_decoder = {a: b.replace("attn.", "self_attn.") for a, b in rest.items()} | CROSS
    sides = ("encoder", encoder_depth, NORMS, rest), ("decoder", decoder_depth, norms_of_decoder, rest_of_decoder)
    for side, depth, norms, others in sides:
        for i in range(depth):
            for ours, theirs in (norms | others).items():
                yield f"{side}.blocks.{i}.{ours}", f"{side}.{i}.{theirs}", ours in norms
    yield from ((ours, theirs, True) for ours, theirs in LAST_NORMS.items())
    yield "handover.project", "decoder_proj_context", False


def _depth(weights: Mapping[str, Tensor], blocks: str) -> int:
    return len({name.removeprefix(f"{blocks}.").split(".")[0] for name in weights if name.startswith(f"{blocks}.")})


def _embedding(left: State, modalities: Sequence[Modality]) -> State:
    """Takes the embeddings of these modalities out of `left`."""
    state: State = {"embedding.unknown": left.pop("mask_token").flatten()}
    none = state["embedding.unknown"][None][:0]
    kinds: list[Tensor] = []
    tables: dict[str, list[Tensor]] = {name: [none] for name in ("words", "answers", "learned", "learned_asked")}
    for modality in modalities:
        known, asked = (f"{side}_embeddings.{modality.name}" for side in ("encoder", "decoder"))
        if f"{known}.mod_emb" not in left:
            raise UserError(f"the checkpoint has no modality {modality.name}.")
        kinds.append(left.pop(f"{known}.mod_emb").flatten())
        if not torch.equal(left.pop(f"{asked}.mod_emb", kinds[-1]).flatten(), kinds[-1]):
            raise UserError(f"the checkpoint has two vectors for the modality {modality.name}: not shared, as 4M's.")
        places = [left.pop(f"{name}.pos_emb")[0] for name in (known, asked) if f"{name}.pos_emb" in left]
        if modality.kind == "vector":
            tables["learned"].append(places[0])
            tables["learned_asked"].append(places[-1])
        elif not _same_places(places[0], modality):
            raise UserError(f"the checkpoint has other places in {modality.name} than those of its size.")
        if modality.vocab_size is None:
            state |= _projection(left, known, f"embedding.project.{modality.name}")
            continue
        tables["words"].append(left.pop(f"{known}.token_emb.weight"))
        tables["answers"].append(left.pop(f"{asked}.to_logits.weight"))
        if not torch.equal(left.pop(f"{asked}.token_emb.weight"), tables["answers"][-1]):
            raise UserError(f"the checkpoint answers in {modality.name} with other words than it is fed: not of 4M.")
    state["embedding.kinds"] = torch.stack(kinds)
    return state | {f"embedding.{name}.weight": torch.cat(parts) for name, parts in tables.items()}


def _same_places(places: Tensor, modality: Modality) -> bool:
    """Whether they are the fixed ones; of a sequence, the first of them."""
    ours = fixed_places(modality, places.shape[1])
    if len(places) > len(ours) or (modality.kind == "grid" and len(places) < len(ours)):
        return False
    return torch.allclose(places, ours[: len(places)], atol=1e-5)


def _projection(left: State, theirs: str, ours: str) -> State:
    """That of patches, or of vectors in a sequence, whose two layers without anything between are one."""
    if f"{theirs}.proj.weight" in left:
        return {f"{ours}.weight": left.pop(f"{theirs}.proj.weight")}
    if f"{theirs}.emb_proj.0.weight" not in left:
        return {f"{ours}.{kind}": left.pop(f"{theirs}.emb_proj.{kind}") for kind in ("weight", "bias")}
    (w0, b0), (w1, b1) = (
        [left.pop(f"{theirs}.emb_proj.{layer}.{kind}") for kind in ("weight", "bias")] for layer in (0, 1)
    )
    return {f"{ours}.weight": w1 @ w0, f"{ours}.bias": w1 @ b0 + b1}


def _published_embedding(state: Mapping[str, Tensor], modalities: Sequence[Modality]) -> State:
    published: State = {"mask_token": state["embedding.unknown"].view(1, 1, -1)}
    words = starts([modality.vocab_size or 0 for modality in modalities])
    learned = starts([modality.length if modality.kind == "vector" else 0 for modality in modalities])
    for modality, word, place, kind in zip(modalities, words, learned, state["embedding.kinds"], strict=True):
        for side, table, places in (("encoder", "words", "learned"), ("decoder", "answers", "learned_asked")):
            if side == "decoder" and not modality.vocab_size:
                continue
            name = f"{side}_embeddings.{modality.name}"
            published[f"{name}.mod_emb"] = kind.view(1, 1, -1)
            own = state[f"embedding.{places}.weight"][place : place + modality.length]
            fixed = None if modality.kind == "vector" else fixed_places(modality, len(kind))
            published[f"{name}.pos_emb"] = (own if fixed is None else fixed)[None]
            if not modality.vocab_size:
                layer = "emb_proj" if modality.kind == "sequence" else "proj"
                for part in ("weight", "bias"):
                    if (value := state.get(f"embedding.project.{modality.name}.{part}")) is not None:
                        published[f"{name}.{layer}.{part}"] = value
                continue
            published[f"{name}.token_emb.weight"] = state[f"embedding.{table}.weight"][
                word : word + modality.vocab_size
            ]
            if side == "decoder":
                published[f"{name}.to_logits.weight"] = published[f"{name}.token_emb.weight"]
    return published
