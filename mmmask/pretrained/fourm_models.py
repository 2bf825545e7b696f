"""Published checkpoints of 4M as models of ours, and ours as theirs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from mmmask.catalogue import KNOWN, SIZES
from mmmask.errors import UserError, nearest
from mmmask.modalities import Modality
from mmmask.pretrained.fourm import read_fourm, write_fourm
from mmmask.pretrained.model_files import Model, Spec, build, load_weights
from mmmask.pretrained.nat import State
from mmmask.synthesis import AnyToAny
from mmmask.tokenizers.perceptual import MEAN, STD
from mmmask.tokenizers.text_vocabulary import TextVocabulary
from mmmask.transformer import FourM

PATCH = 16  # side, of all published models


def is_fourm(weights: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("encoder_embeddings.") for name in weights)


def fourm_model(weights: State, told: Mapping[str, Any], heads: int | None, source: object) -> Model:
    """The model of these published weights; `told` is the configuration that lies with them, as far as there is one."""
    weights = _untied(weights)
    modalities = _modalities(weights, source)
    dim, hidden = weights["mask_token"].shape[-1], len(weights["encoder.0.mlp.fc1.weight"])
    gated = "encoder.0.mlp.fc3.weight" in weights
    own: dict[str, Any] = {
        "modalities": [_spec(modality) for modality in modalities],
        "dim": dim,
        "encoder_depth": _depth(weights, "encoder."),
        "decoder_depth": _depth(weights, "decoder."),
        "heads": _heads(weights, told, heads, source),
        "mlp_ratio": _ratio(dim, hidden, 2 / 3 if gated else 1.0),
        "mlp": "swiglu" if gated else "gelu",
        "bias": "encoder.0.attn.qkv.bias" in weights,
        "qk_norm": "encoder.0.attn.q_norm.weight" in weights,
    }
    if "register_tokens" in weights:
        own["registers"] = weights["register_tokens"].shape[1]
    spec: Spec = {"class_path": "mmmask.transformer.FourM", "init_args": own}
    backbone = build(spec)
    load_weights(backbone, read_fourm(weights, modalities), source)
    return Model({"backbone": backbone.eval()}, {"backbone": spec})


def with_codecs(model: Model, vocabulary: Path, source: object) -> Model:
    """The same model with codecs, to be asked: texts in the words of 4M's text tokenizer, pixels as patches, and ids
    that its image tokenizers make, as they are."""
    backbone = model.part("backbone", source)
    if not isinstance(backbone, FourM):
        raise UserError(f"{source} is no 4M, and has no use for the vocabulary {vocabulary}.")
    words = TextVocabulary(vocabulary)
    codecs = {modality.name: _codec(modality, words) for modality in backbone.embedding.catalogue.modalities}
    settings = {"backbone": model.specs["backbone"], "codecs": codecs}
    spec: Spec = {"class_path": "mmmask.synthesis.AnyToAny", "init_args": settings}
    return Model({"any_to_any": AnyToAny(backbone, build(codecs)).eval()}, {"any_to_any": spec})


def _codec(modality: Modality, words: TextVocabulary) -> Spec:
    if modality.sentinels is not None:
        if (words.size, words.sentinels[1]) != (modality.vocab_size, modality.sentinels[1]):
            raise UserError(
                f"{words.name} has {words.size} words, of which [S_0] and its like end before word "
                f"{words.sentinels[1]}; those of {modality.name} are {modality.vocab_size}, and end before "
                f"{modality.sentinels[1]}: give the text tokenizer that comes with 4M."
            )
        own: dict[str, Any] = {"vocabulary": words.content, "length": modality.length, "published": True}
        return {"class_path": "mmmask.tokenizers.Words", "init_args": own}
    if modality.channels is not None and modality.kind == "grid":
        size = PATCH * round(modality.length**0.5)
        own = {"image_size": size, "patch": PATCH, "mean": list(MEAN), "spread": list(STD)}
        return {"class_path": "mmmask.tokenizers.Patches", "init_args": own}
    return {"class_path": "mmmask.tokenizers.PublishedTokens", "init_args": {"of": modality.name}}


def fourm_weights(backbone: FourM) -> tuple[State, dict[str, Any]]:
    """Published names and shapes for the weights of a model, and the configuration that the published code reads."""
    modalities = backbone.embedding.catalogue.modalities
    if unknown := [modality.name for modality in modalities if KNOWN.get(modality.name) != modality]:
        raise UserError(
            f"the published code of 4M has its own catalogue of modalities, in which there is no such '{unknown[0]}': "
            "export without --published."
        )
    if not backbone.embedding.as_published:
        raise UserError(
            "the published code of 4M has neither stem: conv nor places: picture, with which this model was trained: "
            "export without --published."
        )
    style, encoder = backbone.encoder.style, backbone.encoder.blocks
    config = {
        "domains_in": sorted(modality.name for modality in modalities),
        "domains_out": sorted(modality.name for modality in modalities if modality.vocab_size),
        "image_size": 224,
        "patch_size": PATCH,
        "dim": backbone.encoder.dim,
        "encoder_depth": len(encoder),
        "decoder_depth": len(backbone.decoder.blocks),
        "num_heads": encoder[0].get_submodule("attention").heads,
        "mlp_ratio": style.mlp_ratio,
        **{f"{part}_bias": style.bias for part in ("qkv", "proj", "mlp", "norm")},
        "act_layer": "SiLU" if style.mlp == "swiglu" else "GELU",
        "gated_mlp": style.mlp == "swiglu",
        "qk_norm": style.qk_norm,
        "num_register_tokens": 0 if backbone.registers is None else len(backbone.registers),
    }
    weights = write_fourm(backbone.state_dict(), modalities)
    return {name: value.clone() for name, value in weights.items()}, config  # no file has one tensor by two names


def _modalities(weights: State, source: object) -> list[Modality]:
    """Those of the checkpoint, in the order of the catalogue."""
    names = {name.split(".")[1] for name in weights if name.startswith(("encoder_embeddings.", "decoder_embeddings."))}
    for name in sorted(names - KNOWN.keys()):
        raise UserError(
            f"{source} has the modality '{name}', which the catalogue of 4M (mmmask.catalogue) does not have."
            f"{nearest(name, KNOWN)} Add it there with its length and vocabulary."
        )
    found = [modality for modality in KNOWN.values() if modality.name in names]
    for modality in found:
        table = weights.get(f"encoder_embeddings.{modality.name}.token_emb.weight")
        if table is not None and len(table) != modality.vocab_size:
            raise UserError(
                f"{source} has {len(table)} words of {modality.name}, the catalogue of 4M {modality.vocab_size}: "
                "its tokens are those of another tokenizer."
            )
    return found


def _spec(modality: Modality) -> Spec:
    own = {key: value for key, value in asdict(modality).items() if value is not None}
    if modality.sentinels is not None:
        own["sentinels"] = list(modality.sentinels)
    return {"class_path": "mmmask.modalities.Modality", "init_args": own}


def _heads(weights: State, told: Mapping[str, Any], heads: int | None, source: object) -> int:
    """As normed queries, the configuration, or the name of the size tell it."""
    dim = weights["mask_token"].shape[-1]
    name = str(told.get("model", "")).split("_")
    found: int | None = told.get("num_heads")
    if "encoder.0.attn.q_norm.weight" in weights:
        found = dim // len(weights["encoder.0.attn.q_norm.weight"])
    elif found is None and len(name) > 1 and name[0] == "fm":
        found = SIZES.get(name[1], {}).get("heads")
    if found is None and heads is None:
        examples = "4M base 12, large 16, xlarge 32"
        raise UserError(f"{source} is of 4M, and does not tell its heads: give --heads ({examples}).")
    if None not in (found, heads) and found != heads:
        raise UserError(f"{source} is of a 4M with {found} heads, not {heads}.")
    return int(found or heads or 0)


def _ratio(dim: int, hidden: int, share: float) -> float:
    return 4.0 if int(4 * dim * share) == hidden else (hidden + 0.5) / (dim * share)  # as it is rounded down again


def _depth(weights: State, side: str) -> int:
    return len({name.split(".")[1] for name in weights if name.startswith(side)})


def _untied(weights: State) -> State:
    """With what has two names under both, where a file has kept one of them."""
    found = dict(weights)
    for name, value in weights.items():
        side, _, rest = name.partition(".")
        if side == "decoder_embeddings" and name.endswith(".mod_emb"):
            found.setdefault(f"encoder_embeddings.{rest}", value)
        if side == "decoder_embeddings" and name.endswith(".token_emb.weight"):
            found.setdefault(name.replace(".token_emb.", ".to_logits."), value)
        if side == "decoder_embeddings" and name.endswith(".to_logits.weight"):
            found.setdefault(name.replace(".to_logits.", ".token_emb."), value)
    return found
