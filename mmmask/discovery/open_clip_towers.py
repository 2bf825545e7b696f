"""The two sides of a model of open_clip, from a file of its weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmmask.discovery.towers import PictureTower, TextTower, with_settings
from mmmask.errors import UserError, nearest
from mmmask.pretrained.folders import DAMAGED, beginning


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
        self.colours(getattr(self.net, "image_mean", None), getattr(self.net, "image_std", None))

    def forward(self, raw: Tensor) -> Tensor:
        return self.net(self.pixels(raw)).float()

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        return with_settings(spec, pretrained=None, made=True)


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

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        return with_settings(spec, pretrained=None, made=True)


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
        return open_clip.create_model(model, pretrained=str(pretrained) if pretrained else None)
    except (*DAMAGED, AttributeError, TypeError) as error:
        raise UserError(f"{pretrained}: open_clip cannot make a {model} of it ({beginning(error)}).") from error
    finally:
        logging.getLogger().setLevel(level)


def _embedded(model: str) -> int:
    """How many numbers the vectors of an open_clip model have."""
    import open_clip

    return int(open_clip.get_model_config(model)["embed_dim"])
