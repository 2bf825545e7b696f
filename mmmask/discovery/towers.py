"""Encoders of one kind of data each: those of open_clip and transformers, from files, and vectors that are there
already."""

from __future__ import annotations

import json
import logging
import pickle
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from mmmask.errors import UserError, nearest

DAMAGED = (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError)
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
        if picture.shape[1] != len(mean):
            raise UserError(
                f"{type(self).__name__}: pictures have {picture.shape[1]} channels, expected {len(mean)} or 1; set "
                "channels of the reader."
            )
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
    """The picture side of an open_clip model, of this name (ViT-B-32), with the weights of a file.

    An exported model has the weights itself: there `pretrained` is None, and `made` true.
    """

    def __init__(
        self, model: str, pretrained: Path | None = None, made: bool = False, source: str | None = None
    ) -> None:
        super().__init__(source)
        self.net, self.width = _open_clip(model, pretrained, made).visual, _embedded(model)
        size = self.net.image_size
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self._colours(getattr(self.net, "image_mean", None), getattr(self.net, "image_std", None))

    def forward(self, raw: Tensor) -> Tensor:
        return self.net(self.pixels(raw)).float()

    def blocks(self) -> Sequence[nn.Module]:
        return _blocks(self.net)

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        return _with(spec, pretrained=None, made=True)


class OpenClipTexts(TextTower):
    """The text side of an open_clip model, of this name (ViT-B-32), with the weights of a file.

    An exported model has the weights itself: there `pretrained` is None, and `made` true.
    """

    def __init__(
        self, model: str, pretrained: Path | None = None, made: bool = False, source: str | None = None
    ) -> None:
        super().__init__(source)
        self.net, self.width = _open_clip(model, pretrained, made), _embedded(model)
        import open_clip  # slow to import

        self.words = open_clip.get_tokenizer(model)
        self.net.visual = nn.Identity()  # the other half, and what compares both
        self.net.logit_scale = self.net.logit_bias = None

    def forward(self, raw: Sequence[str]) -> Tensor:
        device = next(self.net.parameters()).device
        return self.net.encode_text(self.words([text or "" for text in raw]).to(device)).float()

    def blocks(self) -> Sequence[nn.Module]:
        return _blocks(self.net)

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        return _with(spec, pretrained=None, made=True)


class PretrainedPictures(PictureTower):
    """A picture model of transformers (ViT, DINO): its first token.

    `folder` is what `save_pretrained` puts there; `made` is in its place in an exported model.
    """

    def __init__(
        self, folder: Path | None = None, made: dict[str, Any] | None = None, source: str | None = None
    ) -> None:
        super().__init__(source)
        self.net = _pretrained(folder, made)
        self.width = _hidden(self.net, folder)
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
        return _with(spec, folder=None, made={"config": self.net.config.to_dict(), "preprocessor": self.settings})


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
            raise UserError(f"{folder}: tokenizer.json is no tokenizer ({_first(error)}).") from error
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

    def blocks(self) -> Sequence[nn.Module]:
        return _blocks(self.net)

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        return _with(spec, folder=None, made={"config": self.net.config.to_dict(), "tokenizer": self.tokenizer})


def _open_clip(model: str, pretrained: Path | None, made: bool) -> Any:
    import open_clip  # slow to import

    if model not in open_clip.list_models():
        raise UserError(f"open_clip has no model '{model}'.{nearest(model, open_clip.list_models())}")
    words = open_clip.get_model_config(model)["text_cfg"]
    if foreign := words.get("hf_tokenizer_name") or words.get("hf_model_name"):
        raise UserError(f"{model} needs {foreign} from the Hub for its texts; take a model of open_clip's own words.")
    if (pretrained is None) == (not made):
        raise UserError(f"{model}: give the file of its weights (pretrained).")
    if pretrained is not None and not Path(pretrained).is_file():
        raise UserError(f"there is no file {pretrained} with weights of {model}.")
    level = logging.getLogger().level
    try:
        if made:
            logging.getLogger().setLevel(logging.ERROR)  # it would say that weights are random; they are yet to come
        return open_clip.create_model(model, pretrained=str(pretrained) if pretrained else None, pretrained_text=False)
    except (*DAMAGED, AttributeError, TypeError) as error:
        raise UserError(f"{pretrained}: open_clip cannot make a {model} of it ({_first(error)}).") from error
    finally:
        logging.getLogger().setLevel(level)


def _embedded(model: str) -> int:
    """How many numbers the vectors of an open_clip model have."""
    import open_clip

    return int(open_clip.get_model_config(model)["embed_dim"])


def _hidden(net: Any, folder: Path | None) -> int:
    """How many numbers the features of a model of transformers have."""
    if (size := getattr(net.config, "hidden_size", None)) is None:
        raise UserError(
            f"{folder} holds a {type(net).__name__}, which is no encoder of one kind of data; of a CLIP, take "
            "OpenClipPictures and OpenClipTexts."
        )
    return int(size)


def _pretrained(folder: Path | None, made: dict[str, Any] | None) -> Any:
    """A model of a folder, or a fresh one by the configuration that an exported model holds."""
    from transformers import AutoConfig, AutoModel  # slow to import
    from transformers.utils import logging as notes

    if (folder is None) == (not made):
        raise UserError("a tower of transformers is made of a folder: what save_pretrained puts there.")
    before = notes.get_verbosity()
    notes.set_verbosity_error()  # it would list weights of heads that are not used
    try:
        if made:
            config = dict(made["config"])
            return AutoModel.from_config(AutoConfig.for_model(config.pop("model_type"), **config)).float()
        # float32 whatever the file has: small changes would be lost
        return AutoModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True).float().train()
    except DAMAGED as error:
        raise UserError(
            f"{folder} holds no model of transformers ({_first(error)}): download one there, as safetensors."
        ) from error
    finally:
        notes.set_verbosity(before)


def _json(folder: Path | None, name: str) -> Any:
    assert folder is not None
    file = Path(folder) / name
    if not file.is_file():
        raise UserError(f"{folder} has no {name}: download it with the model.")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}): download it again.") from error


def _blocks(net: nn.Module) -> Sequence[nn.Module]:
    """The blocks of a network: its list of modules that attend. Networks with several (stages) have no one."""
    lists = [list(m) for m in net.modules() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m)]
    attend = [some for some in lists if all(any("att" in name for name, _ in m.named_children()) for m in some)]
    return attend[0] if len(attend) == 1 else []


def _with(spec: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {**spec, "init_args": {**spec["init_args"], **changes}}


def _first(error: Exception) -> str:
    """The beginning of what an error says."""
    return " ".join(str(error).split())[:200].rstrip(".")
