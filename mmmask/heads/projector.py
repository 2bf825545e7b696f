"""Where features are contrasted: a multi-layer perceptron behind the backbone, left out after training (DINO's)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from mmmask.errors import UserError


class Projector(nn.Module):
    """`(..., dim)` to `(..., width)`: Linear-GELU-Linear-GELU-Linear; the output is not normalised."""

    def __init__(
        self, dim: int, width: int = 256, hidden: int = 2048, layers: int = 3, batch_norm: bool = False
    ) -> None:
        super().__init__()
        if min(dim, width, hidden, layers) < 1:
            raise UserError(
                f"Projector: dim, width, hidden and layers must be 1 or more; they are {dim}, {width}, {hidden} "
                f"and {layers}."
            )
        sizes = [dim, *[hidden] * (layers - 1), width]
        linears = [nn.Linear(a, b) for a, b in pairwise(sizes)]
        for linear in linears:
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
        self.linears = nn.ModuleList(linears)
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden) if batch_norm else nn.Identity() for _ in sizes[1:-1])
        self.gelu = nn.GELU()

    def forward(self, features: Tensor) -> Tensor:
        x = features.flatten(0, -2)  # batch norm takes rows
        for linear, norm in zip(self.linears, self.norms, strict=False):
            x = self.gelu(norm(linear(x)))
        return self.linears[-1](x).unflatten(0, features.shape[:-1])
