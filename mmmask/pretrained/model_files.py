"""Our own format: models with their configuration and sampling settings, as one file or a folder.

A folder holds `model.safetensors`, `config.json` and the model card `README.md`; a single `.safetensors` file has
the configuration and the card in its header. Nothing in either can run code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from mmmask.errors import UserError, nearest
from mmmask.files import written_whole

Spec = dict[str, Any]  # {"class_path": "mmmask...", "init_args": {...}}, as in a configuration
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


class Model(NamedTuple):
    """What is kept together (a generator, its tokenizer, how to sample), and what each part is."""

    parts: dict[str, Any]
    specs: dict[str, Spec]

    def part(self, name: str, source: object) -> Any:
        """The part of this name, or a sentence that says what there is."""
        if name not in self.parts:
            raise UserError(f"{source} holds no {name}, only {', '.join(self.parts)}. Give a model that has one.")
        return self.parts[name]

    def to(self, device: torch.device) -> Model:
        """With all its modules on this device."""
        for part in self.parts.values():
            if isinstance(part, nn.Module):
                part.to(device)
        return self


def write(path: Path, model: Model, card: str) -> None:
    """Write modules with their weights, and other parts by their specs alone."""
    weights: dict[str, Tensor] = {}
    for name, part in model.parts.items():
        if isinstance(part, nn.Module):
            weights |= {f"{name}.{key}": value.contiguous() for key, value in part.state_dict().items()}
    config = json.dumps({"mmmask": version("mmmask"), "parts": model.specs}, indent=1)
    if path.is_dir() and any(path.iterdir()) and not is_model(path):
        raise UserError(f"{path} holds other things than a model: choose a new folder.")
    if path.suffix == ".safetensors":
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, save(weights, {"config": config, "card": card}))
        return
    path.mkdir(parents=True, exist_ok=True)
    _write(path / WEIGHTS, save(weights, {"format": "pt"}))
    _write(path / CARD, card.encode())
    _write(path / CONFIG, config.encode())  # last: a folder with it is complete


def is_model(path: Path) -> bool:
    return path.suffix == ".safetensors" or (path / CONFIG).is_file()


def has_config(file: Path) -> bool:
    """Whether a .safetensors file is a model of ours, not only weights."""
    try:
        with safe_open(file, "pt") as opened:
            return "config" in (opened.metadata() or {})
    except (SafetensorError, OSError):
        return False


def read(path: Path) -> Model:
    """A model, built and with its weights, in eval mode."""
    file = path if path.suffix == ".safetensors" else path / WEIGHTS
    try:
        with safe_open(file, "pt") as opened:
            header = opened.metadata() or {}
            weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        config = header["config"] if file == path else (path / CONFIG).read_text()
        specs = json.loads(config)["parts"]
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or file} does not exist: {path} is no model that mmmask exported.") from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged, or no model that mmmask exported: {error}.") from error
    return Model({name: _part(path, name, spec, weights) for name, spec in specs.items()}, specs)


def build(spec: Any, trusted: bool = False) -> Any:
    """What a configuration describes; only classes of mmmask are built, unless it is trusted as one's own."""
    if isinstance(spec, list):
        return [build(entry, trusted) for entry in spec]
    if not isinstance(spec, dict):
        return spec
    if "class_path" not in spec:
        return {name: build(value, trusted) for name, value in spec.items()}
    room, _, name = spec["class_path"].rpartition(".")
    if not (trusted or room.startswith("mmmask.")):
        raise UserError(f"a model asks for {spec['class_path']}: only classes of mmmask are built from a file.")
    try:
        found = getattr(import_module(room), name)
    except (ImportError, AttributeError) as error:
        known = vars(import_module(room)) if not isinstance(error, ImportError) else ()
        raise UserError(
            f"this version of mmmask has no {spec['class_path']}.{nearest(name, known)} Install a newer one."
        ) from error
    if not isinstance(found, type) or not (trusted or found.__module__.startswith("mmmask.")):
        raise UserError(f"a model asks for {spec['class_path']}, which is no class of mmmask.")
    try:
        return found(**{key: build(value, trusted) for key, value in (spec.get("init_args") or {}).items()})
    except TypeError as error:
        raise UserError(f"the configuration of the model does not fit {spec['class_path']}: {error}.") from error


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], source: object) -> None:
    """All weights, and no others, of the right shapes; or a sentence that says which differ."""
    expected = module.state_dict()
    if missing := sorted(expected.keys() - weights.keys()):
        raise UserError(f"{source} is of another model: it has no {missing[0]} (nor {len(missing) - 1} others).")
    if extra := sorted(weights.keys() - expected.keys()):
        raise UserError(f"{source} is of another model: this one has no {extra[0]} (nor {len(extra) - 1} others).")
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            raise UserError(
                f"{source} is of a model of another size: {name} is {tuple(value.shape)} there, "
                f"{tuple(expected[name].shape)} here."
            )
    module.load_state_dict(dict(weights))


def _part(path: Path, name: str, spec: Spec, weights: Mapping[str, Tensor]) -> Any:
    part = build(spec)
    if isinstance(part, nn.Module):
        own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        load_weights(part, own, path)
        part.eval()
    return part


def _write(path: Path, content: bytes) -> None:
    with written_whole(path) as stream:
        stream.write(content)
