"""What a training made, for use: the models of a run folder, or of a file that was exported or imported."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import yaml
from torch import nn

from mmmask.discovery.discoverer import Adapter, Discoverer
from mmmask.discovery.encoders import Encoder
from mmmask.discovery.fusion import Fusion
from mmmask.errors import UserError
from mmmask.heads import Alignment, DiscoveryHead, Readout
from mmmask.pretrained.model_files import Model, Spec, build, is_model, load_weights, read
from mmmask.synthesis import AnyToAny, ImageGenerator, Policy, Recognition
from mmmask.tokenizers import ImageTokenizer
from mmmask.tokenizers.codec import Codec
from mmmask.transformer import MaskedTransformer, with_products
from tasks.training import finding
from tasks.training.ema import averaged
from tasks.training.whole_files import WholeFiles

TRAINED_ALONE = {"TokenizerTraining": "tokenizer", "ClassifierTraining": "classifier"}  # tasks of one module


def model_of(path: Path) -> Model:
    """The model of a run folder, with the averaged weights if there are any, or of a model file."""
    if is_model(path):
        return read(path)
    if not path.is_dir():
        raise UserError(f"{path} is neither a run folder nor an exported model (seen from {Path.cwd()}).")
    checkpoint, config = finding.trained(path)
    task = yaml.safe_load(config.read_text())["model"]
    given, name = task["init_args"], task["class_path"].rpartition(".")[2]
    content = WholeFiles().load_checkpoint(checkpoint, weights_only=True)
    weights = averaged(content)
    if part := TRAINED_ALONE.get(name):
        return Model({part: _trained(given[part], part, weights, path)}, {part: given[part]})
    if name == "ImageSynthesis":
        model = _synthesis(given, weights, path)
        if "tokenizer" in model.parts:
            same_tokenizer(model.parts["tokenizer"], content, path)
        return model
    if name == "CrossModal":
        return _any_to_any(given, weights, content, path)
    if name == "FineTuning":
        return _recognition(given, weights, content, path)
    if name == "CategoryDiscovery":
        return _discoverer(given, weights, content, path)
    if name == "PolicyTraining":
        return _with_policy(given, weights, content, path)
    raise UserError(f"{path} is a run of {name}: no model of it can be used by itself yet.")


def tokenizer_of(path: Path, generator: ImageGenerator) -> tuple[ImageTokenizer, Spec]:
    """The frozen tokenizer at `path`, if it is one for this generator, and how it is made."""
    model = model_of(path)
    tokenizer = model.part("tokenizer", path).requires_grad_(False)
    fits(tokenizer, generator, path)
    return tokenizer, model.specs["tokenizer"]


def fits(tokenizer: ImageTokenizer, generator: ImageGenerator, path: Path) -> None:
    """Refuse a tokenizer whose tokens are not those that the generator makes."""
    words, tokens = generator.modality.vocab_size, generator.modality.length
    if (tokenizer.vocab_size, tokenizer.grid**2) != (words, tokens):
        raise UserError(
            f"the tokenizer {path} makes {tokenizer.grid**2} tokens out of {tokenizer.vocab_size}, the backbone is "
            f"made for {tokens} out of {words}; set its tokens and vocab_size."
        )


def policy_fits(policy: Policy, generator: ImageGenerator, path: Path) -> None:
    """Refuse a policy that looks at other features, or at another grid, than the generator makes."""
    width, tokens = generator.backbone.decoder.dim, generator.modality.length
    if (policy.channels, policy.tokens) != (width, tokens):
        raise UserError(
            f"the policy {path} is for {policy.tokens} tokens with features of {policy.channels} numbers, the "
            f"generator has {tokens} with {width}: take the one that was trained with this generator."
        )


def fingerprint(module: nn.Module) -> str:
    """What tells a tokenizer, or a generator, from all others: a digest of its weights."""
    weights = sorted(module.state_dict().items())
    return digest(*(name.encode() + value.detach().cpu().contiguous().numpy().tobytes() for name, value in weights))


def digest(*parts: bytes) -> str:
    """What tells these bytes from all others."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()[:16]


def same_tokenizer(tokenizer: ImageTokenizer, checkpoint: Mapping[str, Any], name: object) -> None:
    """Refuse a tokenizer with which the checkpoint was not trained: its tokens mean something else."""
    if checkpoint.get("tokenizer") not in (None, fingerprint(tokenizer)):
        raise UserError(
            f"{name} was trained with another tokenizer than the one that is found now: its tokens would mean "
            "something else. Set tokenizer to the run folder, or exported model, that it was trained with."
        )


def _synthesis(given: dict[str, Any], weights: dict[str, Any], source: Path) -> Model:
    specs: dict[str, Spec] = {
        "generator": {"class_path": "mmmask.synthesis.ImageGenerator", "init_args": {"backbone": given["backbone"]}},
        "sampler": given.get("sampler") or {"class_path": "mmmask.synthesis.Sampler"},
    }
    generator = _trained(specs["generator"], "generator", weights, source)
    assert isinstance(generator, ImageGenerator)
    parts: dict[str, Any] = {"generator": generator, "sampler": build(specs["sampler"], trusted=True)}
    if given.get("tokenizer"):
        parts["tokenizer"], specs["tokenizer"] = tokenizer_of(_needed(given["tokenizer"], source), generator)
    if given.get("text_encoder"):
        specs["text_encoder"] = given["text_encoder"]
        parts["text_encoder"] = build(specs["text_encoder"], trusted=True)
    return Model(parts, specs)


def _any_to_any(given: dict[str, Any], weights: dict[str, Any], content: Mapping[str, Any], source: Path) -> Model:
    """The backbone of a run with its codecs."""
    backbone, codecs, settings = _with_codecs(given, weights, content, source)
    decoders = given.get("decoders") or {}
    model = AnyToAny(backbone, codecs, build(decoders, trusted=True))
    settings["decoders"] = decoders
    if given.get("alignment"):
        settings["alignment"] = given["alignment"]
        aligned = _trained(given["alignment"], "alignment", weights, source)
        assert isinstance(aligned, Alignment)
        model.alignment = aligned
    spec: Spec = {"class_path": "mmmask.synthesis.AnyToAny", "init_args": settings}
    return Model({"any_to_any": model.eval()}, {"any_to_any": spec})


def _recognition(given: dict[str, Any], weights: dict[str, Any], content: Mapping[str, Any], source: Path) -> Model:
    """The backbone of a run with its codecs and its head."""
    backbone, codecs, settings = _with_codecs(given, weights, content, source)
    made = {**(given["head"].get("init_args") or {}), "dim": backbone.encoder.dim}
    head: Spec = {"class_path": given["head"]["class_path"], "init_args": made}
    readout = _trained(head, "head", weights, source)
    assert isinstance(readout, Readout)
    spec: Spec = {"class_path": "mmmask.synthesis.Recognition", "init_args": {**settings, "head": head}}
    return Model({"recognition": Recognition(backbone, codecs, readout).eval()}, {"recognition": spec})


def _discoverer(given: dict[str, Any], weights: dict[str, Any], content: Mapping[str, Any], source: Path) -> Model:
    """The encoder of a run with its adapters, prototypes and fusion."""
    if "encoder" not in given:
        raise UserError(f"{source} was trained with an earlier mmmask, whose category discovery had no encoder.")
    weights = with_products(weights)
    encoder, made = _encoder(given["encoder"], weights, content, source)
    head = {"dim": given["width"], "classes": given["classes"]}
    head |= {"width": given["projector_width"], "hidden": given["projector_hidden"]}
    head |= {"looks": len(encoder.widths) if given["features_first"] else 0}
    settings: dict[str, Any] = {
        "encoder": made,
        "adapters": {
            name: {"class_path": "mmmask.discovery.discoverer.Adapter", "init_args": {"dim": dim, "width": head["dim"]}}
            for name, dim in encoder.widths.items()
        },
        "head": {"class_path": "mmmask.heads.DiscoveryHead", "init_args": head},
        "fusion": given.get("fusion") or {"class_path": "mmmask.discovery.MeanFusion"},
    }
    adapters = {
        name: _trained(spec, f"adapters.{name}", weights, source) for name, spec in settings["adapters"].items()
    }
    model = Discoverer(
        encoder,
        cast(dict[str, Adapter], adapters),
        cast(DiscoveryHead, _trained(settings["head"], "head", weights, source)),
        cast(Fusion, _trained(settings["fusion"], "fusion", weights, source)),
    )
    spec: Spec = {"class_path": "mmmask.discovery.discoverer.Discoverer", "init_args": settings}
    return Model({"discoverer": model.eval()}, {"discoverer": spec})


def _encoder(
    given: dict[str, Any], weights: dict[str, Any], content: Mapping[str, Any], source: Path
) -> tuple[Encoder, Spec]:
    """What sees the samples, and how it is made."""
    own = given.get("init_args") or {}
    if "modalities" not in own:
        encoder = _trained(given, "encoder", weights, source)
        assert isinstance(encoder, Encoder)
        return encoder, encoder.portable(given)
    inner = {name.removeprefix("encoder."): value for name, value in weights.items() if name.startswith("encoder.")}
    backbone, codecs, settings = _with_codecs(own, inner, content, source)
    how = {name: value for name, value in own.items() if name not in ("modalities", "backbone")}
    kind = given["class_path"]
    parts = {"modalities": codecs, "backbone": backbone}
    encoder = build({"class_path": kind, "init_args": {**parts, **how}}, trusted=True)
    load_weights(encoder, inner, source)  # of a class of one's own, more than the backbone's
    made = {"modalities": settings["codecs"], "backbone": settings["backbone"], **how}
    return encoder, {"class_path": kind, "init_args": made}


def _with_codecs(
    given: dict[str, Any], weights: dict[str, Any], content: Mapping[str, Any], source: Path
) -> tuple[MaskedTransformer, dict[str, Codec], dict[str, Any]]:
    """A backbone and the codecs of its modalities, and how both are made; as told elsewhere, codecs carry what they
    are made of."""
    codecs = {name: build(spec, trusted=True) for name, spec in given["modalities"].items()}
    same_codecs(codecs, content, source)
    modalities = [
        {"class_path": "mmmask.modalities.Modality", "init_args": asdict(codec.modality(name))}
        for name, codec in codecs.items()
    ]
    settings = {**(given["backbone"].get("init_args") or {}), "modalities": modalities}
    backbone: Spec = {"class_path": given["backbone"]["class_path"], "init_args": settings}
    specs = {name: codec.portable(given["modalities"][name]) for name, codec in codecs.items()}
    trained = _trained(backbone, "backbone", weights, source)
    assert isinstance(trained, MaskedTransformer)
    return trained, codecs, {"backbone": backbone, "codecs": specs}


def same_codecs(codecs: Mapping[str, nn.Module], checkpoint: Mapping[str, Any], name: object) -> None:
    """Refuse tokenizers with which the checkpoint was not trained."""
    then, now = checkpoint.get("codecs", {}), fingerprints(codecs)
    for modality in then.keys() | now.keys():
        if then.get(modality) != now.get(modality):
            raise UserError(
                f"{name} was trained with another tokenizer of {modality} than the one that is found now: its tokens "
                "would mean something else. Give the one that it was trained with."
            )


def fingerprints(codecs: Mapping[str, nn.Module]) -> dict[str, str]:
    """Of the codecs that have weights."""
    return {name: fingerprint(codec) for name, codec in codecs.items() if codec.state_dict()}


def _with_policy(given: dict[str, Any], weights: dict[str, Any], content: Mapping[str, Any], source: Path) -> Model:
    """The generator that a policy was trained for, with the policy."""
    model = model_of(_needed(given["model"], source))
    generator = model.part("generator", given["model"])
    if content.get("generator") != fingerprint(generator):
        raise UserError(f"{source} is of a policy for another generator than {given['model']} holds now.")
    sizes = {name: given[name] for name in ("smoothing", "hidden", "narrow", "wide")}
    steps = len(build(given["start"], trusted=True))
    features = {"channels": generator.backbone.decoder.dim, "tokens": generator.modality.length}
    spec = {"class_path": "mmmask.synthesis.Policy", "init_args": {**features, "steps": steps, **sizes}}
    policy = _trained(spec, "policy", weights, source)
    return Model({**model.parts, "policy": policy}, {**model.specs, "policy": spec})


def _needed(name: str, source: Path) -> Path:
    """What a run was trained with."""
    if not (path := Path(name)).exists():
        raise UserError(
            f"{source} was trained with {name}, which is not there (seen from {Path.cwd()}): go where it was trained, "
            f"or write in its config.yaml where {path.name} is now. mmmask export makes one file of all that it needs."
        )
    return path


def _trained(spec: Spec, name: str, weights: dict[str, Any], source: Path) -> nn.Module:
    module = build(spec, trusted=True)
    own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
    load_weights(module, own, source)
    return module.eval()
