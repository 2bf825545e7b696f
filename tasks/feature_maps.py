"""Frozen networks that see an image at several depths, as projected discriminators need it (Sauer et al. 2021)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError, nearest
from mmmask.metrics import Classifier
from tasks.evaluating import extractor_of

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class FeatureMaps(nn.Module, ABC):
    """Images `(B, C, H, W)` in 0..1 to features `(B, channels, T)` at each depth. Gradients are not needed."""

    channels: Sequence[int]

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]: ...


class ClassifierMaps(FeatureMaps):
    """What a classifier of mmmask sees after each of its layers: for small images, and without any download.

    Args:
        classifier: run folder of its training, or an exported one. Not the one that judges the images afterwards.
    """

    def __init__(self, classifier: Path) -> None:
        super().__init__()
        network = extractor_of(classifier, None)
        if not isinstance(network, Classifier):
            raise UserError(f"ClassifierMaps: {classifier} holds a {type(network).__name__}, no classifier of mmmask.")
        self.body = network.body
        self.channels = [conv.out_channels for conv in self.body.modules() if isinstance(conv, nn.Conv2d)]

    def forward(self, images: Tensor) -> list[Tensor]:
        maps, x = [], 2 * images - 1
        for layer in self.body:
            x = layer(x)
            maps.append(x.flatten(2))
        return maps


class ViTMaps(FeatureMaps):
    """What a vision transformer of timm sees before its blocks and after some of them, such as AdaNAT's DINO.

    The class token is added to each patch. Larger images are cropped as often as they are shrunk.

    Args:
        weights: file with the weights that timm publishes for it.
        network: its name in timm.
        blocks: after which ones to look.
    """

    def __init__(
        self, weights: Path, network: str = "vit_small_patch16_224.dino", blocks: Sequence[int] = (2, 5, 8, 11)
    ) -> None:
        import timm

        super().__init__()
        if not weights.is_file():
            raise UserError(f"ViTMaps: {weights} does not exist: put there the weights that timm publishes.")
        if network.partition(".")[0] not in (known := timm.list_models("vit_*")):
            raise UserError(f"ViTMaps: timm has no transformer '{network}'.{nearest(network, known)}")
        self.net: Any
        try:
            self.net = timm.create_model(network, num_classes=0, checkpoint_path=str(weights))
        except (RuntimeError, KeyError, ValueError, OSError) as error:
            raise UserError(f"ViTMaps: {weights} holds no weights of timm's {network}.") from error
        if max(blocks) >= len(self.net.blocks):
            raise UserError(f"ViTMaps: {network} has {len(self.net.blocks)} blocks, none of number {max(blocks)}.")
        self.size: int = self.net.patch_embed.img_size[0]
        self.channels = [self.net.embed_dim] * (len(blocks) + 1)
        self._maps: list[Tensor] = []
        for module in (self.net.norm_pre, *(self.net.blocks[i] for i in blocks)):
            module.register_forward_hook(self._keep)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = (self._sized(images.expand(-1, 3, -1, -1)) - self.get_buffer("mean")) / self.get_buffer("std")
        self._maps = []
        self.net.forward_features(x)
        return self._maps

    def _keep(self, module: nn.Module, given: tuple[Tensor, ...], x: Tensor) -> None:
        first = self.net.num_prefix_tokens  # that of the class, and registers
        patches = x[:, first:] + x[:, :1] if self.net.has_class_token else x[:, first:]
        self._maps.append(patches.mT)

    def _sized(self, images: Tensor) -> Tensor:
        beyond = images.shape[-1] - self.size
        if beyond > 0 and torch.rand(()) < 0.5:
            top, left = (int(torch.randint(beyond + 1, ())) for _ in range(2))
            return images[:, :, top : top + self.size, left : left + self.size]
        return F.interpolate(images, (self.size, self.size), mode="area")
