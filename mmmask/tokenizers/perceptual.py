"""A loss in the eyes of a trained classifier: distance of normalised features (LPIPS without its calibration)."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError, nearest

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's classifiers expect


class Perceptual(nn.Module):
    """Mean squared distance of features after these `layers` of a network of torchvision, with `weights` from a file.

    The network is frozen and no part of checkpoints.
    """

    def __init__(
        self,
        weights: Path,
        network: str = "vgg16",
        layers: Sequence[int] = (3, 8, 15, 22, 29),
        weight: float = 1.0,
    ) -> None:
        from torchvision import models  # slow to import, and rarely wanted

        super().__init__()
        if network not in (known := models.list_models(module=models)):
            raise UserError(f"Perceptual: torchvision has no network '{network}'.{nearest(network, known)}")
        net = models.get_model(network, weights=None)
        if not isinstance(getattr(net, "features", None), nn.Sequential) or max(layers) >= len(net.features):
            raise UserError(f"Perceptual: {network} has no layer {max(layers)} of features; vgg16 has 31.")
        try:
            net.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
        except FileNotFoundError as error:
            raise UserError(
                f"Perceptual: {weights} does not exist. Save there what torchvision publishes for {network}."
            ) from error
        except (RuntimeError, pickle.UnpicklingError) as error:
            raise UserError(f"Perceptual: {weights} holds no weights of torchvision's {network}.") from error
        self.__dict__["features"] = net.features[: max(layers) + 1].eval().requires_grad_(False)
        self.layers, self.weight = set(layers), weight
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, images: Tensor, reconstructed: Tensor) -> Tensor:
        """Images `(B, C, H, W)` in 0..1, grey or RGB; the weighed loss `()`."""
        features = self.__dict__["features"].to(images.device)
        both = torch.cat([images, reconstructed])
        x = (both.expand(-1, 3, -1, -1) - self.get_buffer("mean")) / self.get_buffer("std")
        loss = x.new_zeros(())
        for number, layer in enumerate(features):
            x = layer(x)
            if number in self.layers:
                a, b = F.normalize(x, dim=1).chunk(2)
                loss = loss + (a.detach() - b).square().sum(1).mean()
        return self.weight * loss
