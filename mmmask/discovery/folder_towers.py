"""Picture and text models of transformers, from folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmmask.discovery.towers import PictureTower, TextTower, with_settings
from mmmask.errors import UserError
from mmmask.pretrained.folders import beginning, reading

CLASS = ("cls_token", "class_embedding")  # how models of transformers call it


class PretrainedPictures(PictureTower):
    """A picture model of transformers (ViT, DINO): its token of the class, or the mean of all if it has none (Swin).

    `folder` is what `save_pretrained` puts there; `made` is in its place in an exported model.
    """

    def __init__(
        self, folder: Path | None = None, made: dict[str, Any] | None = None, source: str | None = None
    ) -> None:
        super().__init__(source)
        self.net = _pretrained(folder, made)
        self.width = _hidden(self.net, folder)
        self.has_class = any(name.endswith(CLASS) for name, _ in self.net.named_parameters())
        settings = made["preprocessor"] if made else _json(folder, "preprocessor_config.json")
        self.settings = {name: settings.get(name) for name in ("image_mean", "image_std")}
        self.colours(*self.settings.values())
        size = getattr(self.net.config, "image_size", 224)
        self.size = (size, size) if isinstance(size, int) else tuple(size)

    def forward(self, raw: Tensor) -> Tensor:
        features = self.net(pixel_values=self.pixels(raw)).last_hidden_state.float()
        return features[:, 0] if self.has_class else features.mean(1)

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        return with_settings(
            spec, folder=None, made={"config": self.net.config.to_dict(), "preprocessor": self.settings}
        )


class PretrainedTexts(TextTower):
    """A text model of transformers (BERT, RoBERTa): the mean of its words.

    `folder` is what `save_pretrained` puts there, with the tokenizer; `made` is in its place in an exported model.
    """

    def __init__(
        self,
        folder: Path | None = None,
        made: dict[str, Any] | None = None,
        length: int = 128,
        source: str | None = None,
    ) -> None:
        super().__init__(source)
        self.net = _pretrained(folder, made)
        self.width = _hidden(self.net, folder)
        most = getattr(self.net.config, "max_position_embeddings", length)
        if not 1 <= length <= most:
            raise UserError(f"PretrainedTexts: length is {length}; {folder or 'this model'} takes 1 to {most} words.")
        self.tokenizer = made["tokenizer"] if made else _json(folder, "tokenizer.json")
        from tokenizers import Tokenizer

        try:
            self.words = Tokenizer.from_str(json.dumps(self.tokenizer))
        except Exception as error:  # the library has no class of its own for it
            raise UserError(f"{folder}: tokenizer.json is no tokenizer ({beginning(error)}).") from error
        self.words.enable_truncation(length)
        self.words.enable_padding(pad_id=getattr(self.net.config, "pad_token_id", None) or 0)

    def forward(self, raw: Sequence[str]) -> Tensor:
        found = self.words.encode_batch([text or "" for text in raw])
        device, pad = next(self.net.parameters()).device, [0] * (not any(one.ids for one in found))
        ids, mask = (
            torch.tensor([getattr(one, part) or pad for one in found], device=device)
            for part in ("ids", "attention_mask")
        )
        features = self.net(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return (features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        made = {"config": self.net.config.to_dict(), "tokenizer": self.tokenizer}
        return with_settings(spec, folder=None, made=made)


def _pretrained(folder: Path | None, made: dict[str, Any] | None) -> Any:
    """A model of a folder, or a fresh one by the configuration that an exported model holds. In float32 whatever the
    file has: small changes would be lost."""
    from transformers import AutoConfig, AutoModel  # slow to import

    if (folder is None) == (not made):
        raise UserError("a tower of transformers is made of a folder: what save_pretrained puts there.")
    if made:
        config = dict(made["config"])
        return AutoModel.from_config(AutoConfig.for_model(config.pop("model_type"), **config)).float()
    with reading(folder, "model of transformers"):
        return AutoModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True).float().train()


def _hidden(net: Any, folder: Path | None) -> int:
    """How many numbers the features of a model of transformers have."""
    if (size := getattr(net.config, "hidden_size", None)) is None:
        raise UserError(
            f"{folder} holds a {type(net).__name__}, which is no encoder of one kind of data; of a CLIP, take "
            "OpenClipPictures and OpenClipTexts."
        )
    return int(size)


def _json(folder: Path | None, name: str) -> Any:
    assert folder is not None
    file = Path(folder) / name
    if not file.is_file():
        raise UserError(f"{folder} has no {name}: download it with the model.")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}): download it again.") from error
