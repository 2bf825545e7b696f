"""Published checkpoints of AutoNAT, ENAT, 4M and the MaskGIT VQGAN as models of ours."""

from __future__ import annotations

import argparse
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from mmmask.errors import UserError
from mmmask.pretrained.adanat import read_head, sizes
from mmmask.pretrained.fourm_models import fourm_model, fourm_weights, is_fourm
from mmmask.pretrained.model_files import CONFIG, WEIGHTS, Model, Spec, build, load_weights
from mmmask.pretrained.nat import State, read_autonat, read_enat, write_autonat, write_enat
from mmmask.pretrained.vqgan import read_vqgan, write_vqgan
from mmmask.tokenizers import VQGAN
from mmmask.transformer import ENAT, AutoNAT, FourM

WRAPPERS = ("state_dict", "model", "ema", "model_ema")
LONGEST = 10_000  # characters of what is read as a setting


def weights_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by name."""
    content = _content(path)
    while isinstance(content, dict) and (inner := next((content[w] for w in WRAPPERS if w in content), None)):
        content = inner
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no weights by name.")
    return {name.removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}


def _content(path: Path) -> Any:
    """What a file, or a folder as the Hub has it, holds. Pickles are read without running what is in them."""
    try:
        if path.is_dir():
            return load_file(path / WEIGHTS)
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # what old training scripts leave in a file
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or path} does not exist.") from error
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} holds Python objects, which can run code, or is no checkpoint: not loaded.") from error
    except (RuntimeError, EOFError, ValueError, OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged, or no checkpoint.") from error


def settings_of(path: Path) -> dict[str, Any]:
    """What a checkpoint says of its weights: config.json of a folder, metadata, arguments of a script."""
    try:
        if path.is_dir():
            told = json.loads((path / CONFIG).read_text()) if (path / CONFIG).is_file() else {}
            return told if isinstance(told, dict) else {}
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as opened:
                return _parsed(opened.metadata() or {})
        content = _content(path)
        told = content.get("args", {}) if isinstance(content, dict) else {}
        return dict(vars(told)) if isinstance(told, argparse.Namespace) else {}
    except (ValueError, SafetensorError) as error:
        raise UserError(f"the configuration of {path} is damaged: {error}.") from error


def _parsed(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Metadata, whose values are text; what is a mapping there is told as if it were not nested."""
    found: dict[str, Any] = {}
    for name, text in metadata.items():
        try:
            value = yaml.safe_load(text.replace("None", "null")) if len(text) <= LONGEST else None
        except yaml.YAMLError:
            continue
        found |= value if isinstance(value, dict) else {name: value}
    return found


def read_published(
    path: Path, heads: int | None = None, encoder_depth: int | None = None, image_size: int | None = None
) -> Model:
    """The model of a published file. What such a file cannot tell is asked for."""
    weights = weights_of(path)
    try:
        return _recognised(path, weights, heads, encoder_depth, image_size)
    except KeyError as error:
        raise UserError(f"{path} lacks {error.args[0]}, which the published model has: a part, or another.") from error


def _recognised(
    path: Path, weights: State, heads: int | None, encoder_depth: int | None, image_size: int | None
) -> Model:
    if "mlm_layer.bias" in weights and "token_emb.word_embeddings.weight" in weights:
        return _autonat(weights, _needed(path, "AutoNAT", heads=heads)["heads"], path)
    if "mlm_layer.bias" in weights and any(".attn.kv.A." in name for name in weights):
        return _enat(weights, path, **_needed(path, "ENAT", heads=heads, encoder_depth=encoder_depth))
    if "quantize.embedding.weight" in weights:
        return _vqgan(weights, path, image_size)
    if is_fourm(weights):
        return fourm_model(weights, settings_of(path), heads, path)
    known = "AutoNAT, ENAT, 4M and the MaskGIT VQGAN"
    raise UserError(f"{path} is none of the checkpoints that can be imported ({known}); it has {_some(weights)}.")


def read_policy(path: Path, steps: int | None = None) -> Model:
    """The policy of a published AdaNAT file. Settings of its training say for how many steps it is, and whether it
    deviates from rules of thumb; where a file lacks them, `steps` are asked for."""
    weights, content = weights_of(path), _content(path)
    prefix = next((p for p in ("policy_old.actor.", "policy.actor.") if any(n.startswith(p) for n in weights)), None)
    if prefix is None:
        raise UserError(f"{path} is no policy of AdaNAT; it has {_some(weights)}.")
    trained_with = vars(content["args"]) if isinstance(content, dict) and "args" in content else {}
    told = trained_with.get("gen_steps", steps)
    if told is None:
        raise UserError(f"{path} does not tell for how many steps it is: give --policy_steps.")
    if steps not in (None, told):
        raise UserError(f"{path} is a policy for {told} steps, not {steps}.")
    head = read_head(weights, prefix)
    spec: Spec = {"class_path": "mmmask.synthesis.Policy", "init_args": {**sizes(head), "steps": told}}
    if trained_with.get("heu"):
        spec["init_args"]["heuristic"] = True
    policy = build(spec)
    load_weights(policy, {"bias": policy.bias, **{f"actor.{name}": value for name, value in head.items()}}, path)
    return Model({"policy": policy.eval()}, {"policy": spec})


def write_published(model: Model) -> tuple[State, dict[str, Any]]:
    """Weights under their published names, for the published code; of the generator if there is one. And, of 4M, the
    configuration that goes with them."""
    if (backbone := any_to_any(model)) is not None:
        return fourm_weights(backbone)
    part = model.parts.get("generator") or model.part("tokenizer", "the model")
    kind = type(part.backbone) if "generator" in model.parts else type(part)
    if kind is VQGAN and not model.specs["tokenizer"]["init_args"].get("published"):
        raise UserError("this VQGAN has shortcuts that the published code has not; train it with published: true.")
    for known, write in ((AutoNAT, write_autonat), (ENAT, write_enat), (VQGAN, write_vqgan)):
        if kind is known:
            return write(part.state_dict()), {}
    raise UserError(f"there is no published code for a {kind.__name__}.")


def any_to_any(model: Model) -> FourM | None:
    """The 4M of a model, by itself or as what its training made; None if there is none."""
    found = model.parts.get("backbone", getattr(model.parts.get("any_to_any"), "backbone", None))
    return found if isinstance(found, FourM) else None


def _needed(path: Path, name: str, **values: int | None) -> dict[str, int]:
    examples = {"heads": "AutoNAT-L 8, ENAT-L 16", "encoder_depth": "ENAT-L 22"}
    for key, value in values.items():
        if value is None:
            raise UserError(f"{path} is of {name}, and does not tell its {key}: give --{key} ({examples[key]}).")
    return {key: value for key, value in values.items() if value is not None}


def _autonat(weights: Mapping[str, Tensor], heads: int, path: Path) -> Model:
    words, dim = weights["token_emb.word_embeddings.weight"].shape
    blocks = len({name.split(".")[1] for name in weights if name.startswith("in_blocks.")})
    backbone: Spec = {
        "class_path": "mmmask.transformer.AutoNAT",
        "init_args": {
            "vocab_size": words - 1,
            "tokens": len(weights["token_emb.position_embeddings.weight"]),
            "classes": len(weights["context_embed.word_embeddings.weight"]) - 1,
            "dim": dim,
            "depth": 2 * blocks + 1,
            "heads": heads,
            "mlp_ratio": len(weights["mid_block.mlp.fc1.weight"]) / dim,
        },
    }
    return _generator(backbone, read_autonat(weights), "AutoNATSchedule", {}, path)


def _enat(weights: Mapping[str, Tensor], path: Path, heads: int, encoder_depth: int) -> Model:
    words, dim = weights["x_embedder.word_embeddings.weight"].shape
    tokens = len(weights["x_embedder.position_embeddings.weight"])
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    if not 0 < encoder_depth < depth:
        raise UserError(f"{path} has {depth} blocks: encoder_depth must leave some for the decoder.")
    backbone: Spec = {
        "class_path": "mmmask.transformer.ENAT",
        "init_args": {
            "vocab_size": words - 1,
            "tokens": tokens,
            "classes": len(weights["y_embedder.embedding_table.weight"]) - 1,
            "dim": dim,
            "encoder_depth": encoder_depth,
            "decoder_depth": depth - encoder_depth,
            "heads": heads,
            "mlp_ratio": len(weights["blocks.0.mlp.fc1.weight"]) / dim,
        },
    }
    large = {"temperature": 4.0, "guidance": 3.5} if tokens == 1024 else {}
    return _generator(backbone, read_enat(weights, encoder_depth), "ENATSchedule", large, path)


def _generator(backbone: Spec, state: dict[str, Tensor], schedule: str, settings: Spec, path: Path) -> Model:
    specs: dict[str, Spec] = {
        "generator": {"class_path": "mmmask.synthesis.ImageGenerator", "init_args": {"backbone": backbone}},
        "sampler": {
            "class_path": "mmmask.synthesis.Sampler",
            "init_args": {"schedule": {"class_path": f"mmmask.synthesis.{schedule}", "init_args": settings}},
        },
    }
    parts = {name: build(spec) for name, spec in specs.items()}
    load_weights(parts["generator"], state, path)
    parts["generator"].eval()
    return Model(parts, specs)


def _vqgan(weights: Mapping[str, Tensor], path: Path, image_size: int | None) -> Model:
    words, dim = weights["quantize.embedding.weight"].shape
    levels = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.down."))
    width = len(weights["encoder.conv_in.weight"])
    wide = [len(weights[f"encoder.down.{level}.block.0.conv1.weight"]) // width for level in range(levels)]
    spec: Spec = {
        "class_path": "mmmask.tokenizers.VQGAN",
        "init_args": {
            "quantizer": {
                "class_path": "mmmask.tokenizers.EuclideanQuantizer",
                "init_args": {"vocab_size": words, "dim": dim},
            },
            "image_size": image_size or 16 * 2 ** (levels - 1),
            "channels": weights["encoder.conv_in.weight"].shape[1],
            "width": width,
            "multiples": wide,
            "blocks": len({name.split(".")[4] for name in weights if name.startswith("encoder.down.0.block.")}),
            "published": True,
        },
    }
    tokenizer = build(spec)
    load_weights(tokenizer, read_vqgan(weights), path)
    return Model({"tokenizer": tokenizer.eval()}, {"tokenizer": spec})


def _some(names: Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)[:3]) + ", ..."
