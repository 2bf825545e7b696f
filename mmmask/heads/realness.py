"""Whether features are those of a real image of its class (StyleGAN-T's projected discriminator, Sauer et al. 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

GROUP = 8  # samples that are normalised together


class Realness(nn.Module):
    """Features `(B, channels, T)` of images and vectors `(B, condition)` of their classes to logits `(B, T)`."""

    def __init__(self, channels: int, condition: int, width: int = 64) -> None:
        super().__init__()
        self.first = _layer(channels, 1)
        self.second = _layer(channels, 9)
        self.out = spectral_norm(nn.Conv1d(channels, width, 1))
        self.condition = nn.Linear(condition, width)
        nn.init.normal_(self.condition.weight)  # divided below by the root of its inputs, as StyleGAN's layers are

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        x = self.first(features)
        x = (x + self.second(x)) / 2**0.5
        scaled = self.condition.weight / condition.shape[1] ** 0.5
        x, wanted = self.out(x), F.linear(condition, scaled, self.condition.bias)
        return (x * wanted[..., None]).sum(1) / wanted.shape[1] ** 0.5


class ClassVector(nn.Module):
    """Classes `(B,)` to vectors `(B, dim)`: StyleGAN2's mapping, which learns slowly."""

    def __init__(self, classes: int, dim: int = 512, depth: int = 8, slowness: float = 100.0) -> None:
        super().__init__()
        self.slowness = slowness
        self.embed = nn.Parameter(torch.randn(classes, dim))
        self.embed_bias = nn.Parameter(torch.zeros(dim))
        self.weights = nn.Parameter(torch.randn(depth, dim, dim) * slowness)
        self.biases = nn.Parameter(torch.zeros(depth, dim))

    def forward(self, classes: Tensor) -> Tensor:
        x = F.embedding(classes, self.embed) / len(self.embed) ** 0.5 + self.embed_bias
        x = x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = F.linear(x, weight / (self.slowness * weight.shape[1] ** 0.5), bias / self.slowness)
            x = F.leaky_relu(x, 0.2) * 2**0.5
        return x


class GroupedBatchNorm(nn.Module):
    """Batch norm `(B, C, T)` over groups of about eight samples, in training and after it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        groups = x.tensor_split(-(-len(x) // GROUP))  # any number of samples, which the published code refuses
        normed = [F.batch_norm(group, None, None, training=True) for group in groups]
        return torch.cat(normed) * self.weight[:, None] + self.bias[:, None]


def _layer(channels: int, reach: int) -> nn.Sequential:
    around = {"padding": reach // 2, "padding_mode": "circular"} if reach > 1 else {}
    convolution = nn.Conv1d(channels, channels, reach, **around)  # type: ignore[arg-type]
    return nn.Sequential(spectral_norm(convolution), GroupedBatchNorm(channels), nn.LeakyReLU(0.2))
