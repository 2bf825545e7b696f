"""Encoders of one kind of data each: those of open_clip and transformers, from files, and vectors that are there
already."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError, nearest

HALF = 0.5  # mean and spread of pixels, where a model names none


class Tower(nn.Module, ABC):
    """Raw data, as a batch holds it, to one vector of `width` numbers for each sample.

    `source` is the entry of the batch that holds the data (default: the name of the look).
    """

    width: int

    def __init__(self, source: str | None = None) -> None:
        super().__init__()
        self.source = source

    @abstractmethod
    def forward(self, raw: Any) -> Tensor:
        """Vectors `(B, width)`."""

    @abstractmethod
    def there(self, raw: Any) -> Tensor:
        """Which samples hold anything `(B,)`, on the CPU."""

    def blocks(self) -> Sequence[nn.Module]:
        """From below; a tower without any has nothing to train in part."""
        return []

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration that it was made of, without what is found on this machine alone."""
        return dict(spec)


class Vectors(Tower):
    """Features that were computed before: a batch holds `(B, width)` numbers. NaN, or zeros alone: absent.

    `dropout` leaves out some of them in training, so that two views of a sample differ.
    """

    def __init__(self, width: int, dropout: float = 0.1, source: str | None = None) -> None:
        super().__init__(source)
        if width < 1 or not 0 <= dropout < 1:
            raise UserError(f"Vectors: width is {width}, dropout {dropout}; give 1 or more, and 0 to below 1.")
        self.width, self.dropout = width, nn.Dropout(dropout)
        self.register_buffer("here", torch.zeros(0), persistent=False)  # where vectors are to go

    here: Tensor

    def forward(self, raw: Tensor) -> Tensor:
        if raw.ndim != 2 or raw.shape[1] != self.width:
            raise UserError(f"Vectors: the batch holds {tuple(raw.shape)}, expected (samples, {self.width}).")
        return self.dropout(F.normalize(raw.to(self.here.device).float().nan_to_num(), dim=-1))

    def there(self, raw: Tensor) -> Tensor:
        return raw.isfinite().all(1).cpu() & (raw != 0).any(1).cpu()


class PictureTower(Tower):
    """Pictures `(B, C, H, W)`, bytes or numbers in 0..1, in the size and colours that a network was made for."""

    net: Any
    size: tuple[int, int]

    def _colours(self, mean: Sequence[float] | None, spread: Sequence[float] | None) -> None:
        for name, numbers in (("mean", mean), ("spread", spread)):
            values = torch.tensor(list(numbers) if numbers is not None else [HALF] * 3)
            self.register_buffer(name, values.view(-1, 1, 1), persistent=False)

    def pixels(self, raw: Tensor) -> Tensor:
        """As the network wants them; a single channel is grey."""
        mean, spread = self.get_buffer("mean"), self.get_buffer("spread")
        picture = raw.to(mean.device).float() / (1.0 if raw.is_floating_point() else 255.0)
        if picture.shape[1] == 1:
            picture = picture.expand(-1, len(mean), -1, -1)
        if picture.shape[2:] != self.size:
            picture = F.interpolate(picture, self.size, mode="bicubic", antialias=True).clamp(0, 1)
        return (picture - mean) / spread

    def there(self, raw: Tensor) -> Tensor:
        return torch.ones(len(raw), dtype=torch.bool)


class TextTower(Tower):
    """Texts; an empty one is absent."""

    def there(self, raw: Sequence[str]) -> Tensor:
        return torch.tensor([bool(text and text.strip()) for text in raw])


class OpenClipPictures(PictureTower):
    """The picture side of an open_clip model, of this name (ViT-B-32) and with the weights of a file."""

    def __init__(self, model: str, pretrained: Path | None = None, source: str | None = None) -> None:
        super().__init__(source)
        clip = _open_clip(model, pretrained)
        self.net, self.width = clip.visual, int(clip.visual.output_dim)
        size = clip.visual.image_size
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self._colours(getattr(clip.visual, "image_mean", None), getattr(clip.visual, "image_std", None))

    def forward(self, raw: Tensor) -> Tensor:
        return self.net(self.pixels(raw)).float()

    def blocks(self) -> Sequence[nn.Module]:
        return _blocks(self.net)

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        return _without_file(spec)


class OpenClipTexts(TextTower):
    """The text side of an open_clip model, of this name (ViT-B-32) and with the weights of a file."""

    def __init__(self, model: str, pretrained: Path | None = None, source: str | None = None) -> None:
        super().__init__(source)
        import open_clip  # slow to import

        self.net, self.words = _open_clip(model, pretrained), open_clip.get_tokenizer(model)
        self.net.visual = nn.Identity()  # the other half
        self.width = int(open_clip.get_model_config(model)["embed_dim"])

    def forward(self, raw: Sequence[str]) -> Tensor:
        device = next(self.net.parameters()).device
        return self.net.encode_text(self.words([text or "" for text in raw]).to(device)).float()

    def blocks(self) -> Sequence[nn.Module]:
        return _blocks(self.net)

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        return _without_file(spec)


class PretrainedPictures(PictureTower):
    """A picture model of transformers (ViT, DINO): its first token.

    `folder` is what `save_pretrained` puts there; `made` is in its place in an exported model.
    """

    def __init__(
        self, folder: Path | None = None, made: dict[str, Any] | None = None, source: str | None = None
    ) -> None:
        super().__init__(source)
        self.net = _pretrained(folder, made)
        self.width = int(self.net.config.hidden_size)
        settings = made["preprocessor"] if made else _json(folder, "preprocessor_config.json")
        self.settings = {name: settings.get(name) for name in ("image_mean", "image_std")}
        self._colours(*self.settings.values())
        size = getattr(self.net.config, "image_size", 224)
        self.size = (size, size) if isinstance(size, int) else tuple(size)

    def forward(self, raw: Tensor) -> Tensor:
        return self.net(pixel_values=self.pixels(raw)).last_hidden_state[:, 0].float()

    def blocks(self) -> Sequence[nn.Module]:
        return _blocks(self.net)

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        return _made(spec, {"config": self.net.config.to_dict(), "preprocessor": self.settings})


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
        self.net, self.length = _pretrained(folder, made), length
        self.width = int(self.net.config.hidden_size)
        self.tokenizer = made["tokenizer"] if made else _json(folder, "tokenizer.json")
        from tokenizers import Tokenizer

        self.words = Tokenizer.from_str(json.dumps(self.tokenizer))
        self.words.enable_truncation(length)
        self.words.enable_padding(pad_id=getattr(self.net.config, "pad_token_id", None) or 0)

    def forward(self, raw: Sequence[str]) -> Tensor:
        found = self.words.encode_batch([text or "" for text in raw])
        device = next(self.net.parameters()).device
        ids, mask = (
            torch.tensor([getattr(one, part) for one in found], device=device) for part in ("ids", "attention_mask")
        )
        features = self.net(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        return (features * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)

    def blocks(self) -> Sequence[nn.Module]:
        return _blocks(self.net)

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        return _made(spec, {"config": self.net.config.to_dict(), "tokenizer": self.tokenizer})


def _open_clip(model: str, pretrained: Path | None) -> Any:
    import open_clip  # slow to import

    if model not in open_clip.list_models():
        raise UserError(f"open_clip has no model '{model}'.{nearest(model, open_clip.list_models())}")
    if pretrained is not None and not Path(pretrained).is_file():
        raise UserError(f"there is no file {pretrained} with weights of {model}.")
    try:
        return open_clip.create_model(model, pretrained=str(pretrained) if pretrained else None)
    except (RuntimeError, OSError, ValueError) as error:
        raise UserError(f"{pretrained or model}: open_clip cannot make a {model} of it ({_first(error)}).") from error


def _pretrained(folder: Path | None, made: dict[str, Any] | None) -> Any:
    """A model of a folder, or a fresh one by the configuration that an exported model holds."""
    from transformers import AutoConfig, AutoModel, logging  # slow to import

    if (folder is None) == (not made):
        raise UserError("a tower of transformers is made of a folder: what save_pretrained puts there.")
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # it would list weights of heads that are not used
    try:
        if made:
            config = dict(made["config"])
            return AutoModel.from_config(AutoConfig.for_model(config.pop("model_type"), **config))
        return AutoModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True).train()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} holds no model of transformers ({_first(error)}): download one there, as safetensors."
        ) from error
    finally:
        logging.set_verbosity(before)


def _json(folder: Path | None, name: str) -> Any:
    assert folder is not None
    file = Path(folder) / name
    if not file.is_file():
        raise UserError(f"{folder} has no {name}: download it with the model.")
    return json.loads(file.read_text(encoding="utf-8"))


def _blocks(net: nn.Module) -> Sequence[nn.Module]:
    """The blocks of a network: its longest list of modules that attend."""
    lists = [list(m) for m in net.modules() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m)]
    attend = [some for some in lists if all(any("att" in name for name, _ in m.named_children()) for m in some)]
    return max(attend, key=len, default=[])


def _without_file(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {**spec, "init_args": {**spec["init_args"], "pretrained": None}}


def _made(spec: Mapping[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    return {**spec, "init_args": {**spec["init_args"], "folder": None, "made": made}}


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200].rstrip(".")
