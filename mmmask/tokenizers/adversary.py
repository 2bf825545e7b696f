"""A discriminator of patches that tokenizers are trained against (VQGAN, Esser et al. 2021)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.tokenizers.ranks import ranks, sum_over_ranks


class Verdict(NamedTuple):
    """What a training step adds to its loss."""

    of_generator: Tensor  # (): how well the discriminator tells the reconstructions, weighed; no gradient to it
    of_discriminator: Tensor  # (): how badly it does; no gradient to the tokenizer


class Adversary(nn.Module):
    """Hinge losses of a convolutional discriminator that judges overlapping patches.

    Both sides learn in the same step from one backward pass: each loss is blind to the weights of the other side.
    `weight` is how strong the pull of the discriminator on the last layer is, relative to that of the reconstruction;
    before `start_step` it only learns.
    """

    def __init__(
        self, channels: int = 3, width: int = 64, halvings: int = 3, weight: float = 0.1, start_step: int = 0
    ) -> None:
        super().__init__()
        if min(channels, width, halvings) < 1 or weight < 0 or start_step < 0:
            raise UserError(
                "Adversary: channels, width and halvings must be 1 or more, weight and start_step 0 or more; "
                f"they are {channels}, {width}, {halvings}, {weight} and {start_step}."
            )
        self.weight, self.start_step = weight, start_step
        self.channels, self.least_size = channels, 3 * 2**halvings
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i in range(1, halvings + 1):
            narrow, wide = width * min(2 ** (i - 1), 8), width * min(2**i, 8)
            stride = 2 if i < halvings else 1
            layers += [nn.Conv2d(narrow, wide, 4, stride, padding=1, bias=False), nn.GroupNorm(1, wide)]
            layers += [nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Conv2d(wide, 1, 4, padding=1))

    def forward(
        self, images: Tensor, reconstructed: Tensor, reconstruction_loss: Tensor, last_layer: Tensor, step: int
    ) -> Verdict:
        """Images `(B, C, H, W)` in 0..1, and what became of them."""
        real, fake = self.net(2 * images - 1), self.net(2 * reconstructed.detach() - 1)
        of_discriminator = (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
        if step < self.start_step:
            return Verdict(of_discriminator.new_zeros(()), of_discriminator)
        frozen = {name: weight.detach() for name, weight in self.net.named_parameters()}
        of_generator = -torch.func.functional_call(self.net, frozen, (2 * reconstructed - 1,)).mean()
        scale = relative_pull(reconstruction_loss, of_generator, last_layer)
        return Verdict(self.weight * scale * of_generator, of_discriminator)


def relative_pull(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """How much stronger loss `a` pulls on these weights than loss `b`, up to 10,000 times; the same on all ranks."""
    pulls = [torch.autograd.grad(loss, weights, retain_graph=True)[0].norm().detach() for loss in (a, b)]
    pull_a, pull_b = sum_over_ranks(torch.stack(pulls)) / ranks()[1]
    return (pull_a / (pull_b + 1e-4)).clamp(0, 1e4)
