"""`mmmask import` and `mmmask export`: models as files of ours, from others and to others."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save
from torch import nn

from mmmask.errors import UserError
from mmmask.files import written_whole
from mmmask.pretrained import model_files
from mmmask.pretrained.fourm_models import with_codecs
from mmmask.pretrained.model_files import Model
from mmmask.pretrained.nat import State
from mmmask.pretrained.published import read_policy, read_published, write_published
from tasks.finished import fits, model_of, policy_fits

FILES = (model_files.WEIGHTS, model_files.CONFIG, model_files.CARD)


def import_(
    checkpoint: Path,
    out: Path,
    tokenizer: Path | None = None,
    heads: int | None = None,
    encoder_depth: int | None = None,
    image_size: int | None = None,
    policy: Path | None = None,
    policy_steps: int | None = None,
    vocabulary: Path | None = None,
) -> None:
    """Make a model of ours of a published checkpoint: AutoNAT, ENAT, 4M, or the MaskGIT VQGAN.

    Args:
        checkpoint: nnet_ema.pth, vqgan_jax_strongaug.ckpt, a folder of the Hub, ...; its kind is found out.
        out: folder, or .safetensors file, to write.
        tokenizer: published VQGAN or model of ours to keep with a generator, so that it can draw pictures.
        heads: attention heads, which AutoNAT's and ENAT's files do not tell, nor 4M's without a configuration.
        encoder_depth: blocks before the decoder, which ENAT's files do not tell.
        image_size: pixels of the pictures that a VQGAN is for (default 256; 512 for ENAT's larger models).
        policy: published policy of AdaNAT to decode with.
        policy_steps: decoding steps that it was trained for, if its file does not tell.
        vocabulary: text tokenizer of 4M (text_tokenizer_4m_wordpiece_30k.json), so that its model can be asked.
    """
    model = read_published(checkpoint, heads, encoder_depth, image_size)
    if tokenizer is not None:
        theirs = not (tokenizer.is_dir() or _ours(tokenizer))
        other = read_published(tokenizer, image_size=image_size) if theirs else model_of(tokenizer)
        fits(other.part("tokenizer", tokenizer), model.part("generator", checkpoint), tokenizer)
        model.parts["tokenizer"], model.specs["tokenizer"] = other.parts["tokenizer"], other.specs["tokenizer"]
    if policy is not None:
        other = read_policy(policy, policy_steps)
        policy_fits(other.parts["policy"], model.part("generator", checkpoint), policy)
        model.parts["policy"], model.specs["policy"] = other.parts["policy"], other.specs["policy"]
    if vocabulary is not None:
        model = with_codecs(model, vocabulary, checkpoint)
    _write(out, model, f"Imported from `{checkpoint.name}`.")


def export(run: Path, out: Path, published: bool = False) -> None:
    """Write the model of a run as one folder, or .safetensors file: weights, configuration, sampling, model card.

    Args:
        run: run folder; the best checkpoint is taken, averaged weights if there are any.
        out: folder, or .safetensors file, to write.
        published: write the weights as the published code of AutoNAT, ENAT, 4M or the VQGAN names them: a .pth; of 4M
            also a .safetensors file, or a folder as the Hub has it.
    """
    if published:
        model = model_of(run)
        if "policy" in model.parts:
            raise UserError(f"{run} decodes by a policy, for which the published code has no file: export without it.")
        _write_published(out, *write_published(model))
        print(out)
        return
    _write(out, model_of(run), f"Trained by mmmask ({run.name}).")


def push(model: Path, repository: str, private: bool = False) -> None:
    """Upload an exported model to the Hugging Face Hub.

    Args:
        model: folder that `mmmask export` or `import` wrote.
        repository: OWNER/NAME there; made if it does not exist.
        private: for a new one.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if not model_files.is_model(model) or not model.is_dir():
        raise UserError(f"{model} is no folder that mmmask exported.")
    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=model, allow_patterns=list(FILES))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(f"the Hub did not take {model}: {error}. `hf auth login` says who you are.") from error
    print(f"https://huggingface.co/{repository}")


def pull(repository: str, out: Path) -> None:
    """Download a model from the Hugging Face Hub.

    Args:
        repository: OWNER/NAME there.
        out: folder to write.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: choose a new folder.")
    try:
        snapshot_download(repository, local_dir=out, allow_patterns=list(FILES))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(f"the Hub did not give {repository}: {error}.") from error
    model_files.read(out)
    print(out)


HUB = {"push": push, "pull": pull}


def _ours(path: Path) -> bool:
    return path.suffix == ".safetensors" and model_files.has_config(path)


def _write_published(out: Path, weights: State, config: dict[str, Any]) -> None:
    """As the published code reads it; `config` is there for 4M alone."""
    if out.suffix == ".safetensors" or (config and not out.suffix):
        if not config:
            raise UserError(f"{out}: the published code reads a .pth of this model; name it so.")
        told = {name: json.dumps(value) for name, value in config.items()}
        file = out if out.suffix else out / model_files.WEIGHTS
        file.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(file) as stream:
            stream.write(save(weights, {**told, "format": "pt"}))
        if file != out:
            (out / model_files.CONFIG).write_text(json.dumps(config, indent=1))
        return
    with written_whole(out) as stream:
        torch.save({"model": weights, "args": argparse.Namespace(**config)} if config else weights, stream)


def _write(out: Path, model: Model, origin: str) -> None:
    model_files.write(out, model, _card(model, origin))
    print(out)


def _card(model: Model, origin: str) -> str:
    """The model card: what it is, how it was made, how it draws."""
    lines = ["---", "library_name: mmmask", "tags: [mmmask, masked-transformer]", "---", ""]
    lines += ["# " + " + ".join(model.parts), "", origin, ""]
    if "generator" in model.parts:
        lines += ["```bash", "mmmask generate --checkpoint . --class 0 1 2 --n 4 --out grid.png", "```", ""]
    for name, spec in model.specs.items():
        part = model.parts[name]
        size = f", {sum(p.numel() for p in part.parameters()):,} parameters" if isinstance(part, nn.Module) else ""
        lines += [f"## {name}{size}", "", "```yaml", yaml.safe_dump(_brief(spec), sort_keys=False).rstrip(), "```", ""]
    return "\n".join(lines)


def _brief(spec: Any) -> Any:
    """A configuration without the words of vocabularies, which are thousands."""
    if not isinstance(spec, dict):
        return spec
    return {
        name: "its words" if name == "vocabulary" and isinstance(value, dict) else _brief(value)
        for name, value in spec.items()
    }
