"""Images to tokens and back: a vision transformer on both sides of a quantizer (ViT-VQGAN, without the GAN).

image -> overlapping convolutions -> blocks -> quantizer -> blocks -> convolutions -> image

Convolutions in place of a plain patch projection learn several times faster on small data.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmmask.errors import UserError
from mmmask.tokenizers.contents import Content
from mmmask.tokenizers.image_tokenizer import ImageTokenizer, Reconstruction
from mmmask.tokenizers.quantizers import Quantized, Quantizer
from mmmask.tokenizers.ranks import ranks, sum_over_ranks
from mmmask.transformer import Block


class Tokens2d(nn.Module):
    """Blocks over a grid of features with learned positions: `(B, h, w, dim) -> (B, h, w, dim)`."""

    def __init__(self, grid: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.position = nn.Parameter(0.02 * torch.randn(grid, grid, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position
        return self.norm(self.blocks(x.flatten(1, 2))).view_as(x)


class Encoder(nn.Module):
    """Images `(B, C, H, W)` in -1..1 to features `(B, h, w, dim)`; `sizes` are the channels while halving."""

    def __init__(self, channels: int, sizes: list[int], grid: int, depth: int, heads: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, sizes[0], 3, padding=1))
        for narrow, wide in pairwise(sizes):
            self.stem.extend([nn.GELU(), nn.Conv2d(narrow, wide, 4, stride=2, padding=1)])
        self.tokens = Tokens2d(grid, sizes[-1], depth, heads)

    def forward(self, images: Tensor) -> Tensor:
        return self.tokens(self.stem(images).permute(0, 2, 3, 1))


class Decoder(nn.Module):
    """Features `(B, h, w, dim)` to images `(B, C, H, W)` in -1..1: the encoder backwards."""

    def __init__(self, channels: int, sizes: list[int], grid: int, depth: int, heads: int) -> None:
        super().__init__()
        self.tokens = Tokens2d(grid, sizes[-1], depth, heads)
        self.head = nn.Sequential()
        for wide, narrow in pairwise(sizes[::-1]):
            self.head.extend([nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1), nn.GELU()])
        self.head.append(nn.Conv2d(sizes[0], channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tokens(x).permute(0, 3, 1, 2))


class BatchSpread(nn.BatchNorm1d):
    """Batch norm without weights, `(n, dim) -> (n, dim)`, over the batches of all ranks as if they were one.

    (torch.nn.SyncBatchNorm needs a GPU, and the statistics of one rank's batch would make training depend on how
    many ranks there are.)
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def __init__(self, dim: int) -> None:
        super().__init__(dim, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or ranks()[1] == 1:
            return super().forward(x)
        sums = sum_over_ranks(F.pad(x.sum(0), (0, 1), value=len(x)))  # and, last, the count
        count = sums[-1]
        centred = x - sums[:-1] / count
        var = sum_over_ranks(centred.square().sum(0)) / count
        self._remember(sums[:-1].detach() / count, var.detach() * count / (count - 1))
        return centred * (var + self.eps).rsqrt()

    def _remember(self, mean: Tensor, var: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var, self.momentum)


class ViTTokenizer(ImageTokenizer):
    """Square images to a grid of token ids, one per patch, and back.

    `width` is the number of channels at full size, doubled at each halving; `dim` that of the `depth`
    blocks on either side. `content` is what the images are (default: pictures in 0..1), with `channels` numbers
    in each place, or classes.
    """

    def __init__(
        self,
        quantizer: Quantizer,
        image_size: int = 32,
        channels: int = 3,
        patch: int = 4,
        dim: int = 128,
        depth: int = 1,
        heads: int = 4,
        width: int = 32,
        content: Content | None = None,
    ) -> None:
        super().__init__()
        if patch < 1 or patch & (patch - 1):
            raise UserError(f"ViTTokenizer: patch is {patch}; choose a power of two: 1, 2, 4, 8, 16 or 32.")
        if image_size < patch or image_size % patch:
            raise UserError(
                f"ViTTokenizer: image_size {image_size} does not divide into patches of {patch}; "
                f"choose a multiple of {patch}."
            )
        if min(channels, dim, width) < 1 or depth < 0:
            raise UserError(
                "ViTTokenizer: channels, dim and width must be 1 or more and depth 0 or more; "
                f"they are {channels}, {dim}, {width} and {depth}."
            )
        self.image_size, self.channels, self.grid = image_size, channels, image_size // patch
        self.vocab_size = quantizer.vocab_size
        self.content = content or self.content
        halvings = patch.bit_length() - 1
        sizes = [width << i for i in range(halvings)] + [dim]
        self.encoder = Encoder(channels, sizes, self.grid, depth, heads)
        self.to_code = nn.Linear(dim, quantizer.dim)
        # Vectors spread around 0 in all directions from the first step on; without it codes collapse.
        self.spread = BatchSpread(quantizer.dim)
        self.quantizer = quantizer
        self.from_code = nn.Linear(quantizer.dim, dim)
        self.decoder = Decoder(channels, sizes, self.grid, depth, heads)

    @property
    def last_layer(self) -> Tensor:
        return self.decoder.head[-1].get_parameter("weight")

    def forward(self, images: Tensor) -> Reconstruction:
        z_q, ids, loss = self._quantized(images)
        return Reconstruction(self._images(z_q), ids, loss)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        z = self._features(images)
        mean, var = self.spread.running_mean, self.spread.running_var
        flat = F.batch_norm(z.flatten(0, 2), mean, var, eps=self.spread.eps)
        return self.quantizer.nearest(flat).view(z.shape[:-1])

    @torch.no_grad()
    def decode(self, ids: Tensor) -> Tensor:
        self.check_ids(ids)
        return self.content.finish(self._images(self.quantizer.codes(ids)))

    def _quantized(self, images: Tensor) -> Quantized:
        """Codes `(B, h, w, code dim)`, ids `(B, h, w)` and the quantizer's loss."""
        z = self._features(images)
        z_q, ids, loss = self.quantizer(self.spread(z.flatten(0, 2)).view_as(z).flatten(1, 2))
        return Quantized(z_q.view_as(z), ids.view(z.shape[:-1]), loss)

    def _features(self, images: Tensor) -> Tensor:
        planes = self.content.planes(images, self.channels)
        self.check_images(planes)
        return self.to_code(self.encoder(planes)).float()  # (B, h, w, code dim)

    def _images(self, codes: Tensor) -> Tensor:
        return self.content.output(self.decoder(self.from_code(codes)))
