"""Names of the head that SimGCD, and all that build on it, publish (DINO's); ours map there and back."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mmmask.errors import UserError

# The same two tensors, in both spellings of torch's weight norm: gain and direction.
SPELLINGS = {
    "last_layer.weight_v": "last_layer.weight_g",
    "last_layer.parametrizations.weight.original1": "last_layer.parametrizations.weight.original0",
}


def read_simgcd_head(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `DiscoveryHead` from a published checkpoint, wherever in its model the head is (`1.`, `head.`)."""
    found = [(name, end) for name in weights for end in SPELLINGS if name == end or name.endswith(f".{end}")]
    if len(found) != 1:
        raise UserError(
            f"a head of SimGCD has one last_layer with weight norm, here are {len(found)}: give those of one model."
        )
    (direction, end), state = found[0], {}
    prefix = direction.removesuffix(end)
    gain = weights.get(prefix + SPELLINGS[end])
    if gain is not None and not bool((gain == 1).all()):
        raise UserError(
            f"{prefix}{SPELLINGS[end]} is not 1: prototypes of SimGCD have no lengths. Is it DINO's own head?"
        )
    state["prototypes.weight"] = weights[direction]
    mlp = {name.removeprefix(f"{prefix}mlp."): w for name, w in weights.items() if name.startswith(f"{prefix}mlp.")}
    if not mlp:
        raise UserError(f"there is no {prefix}mlp beside {direction}: the projector is missing.")
    for name, weight in mlp.items():
        state[f"projector.{_ours(name, batch_norm=any('running_mean' in key for key in mlp))}"] = weight
    return state


def write_simgcd_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `DiscoveryHead` under its published names, with the older spelling of weight norm."""
    direction = state["prototypes.weight"]
    found = {"last_layer.weight_g": torch.ones_like(direction[:, :1]), "last_layer.weight_v": direction}
    linears = sum(name.startswith("projector.linears.") and name.endswith(".weight") for name in state)
    step = 3 if any("running_mean" in name for name in state) else 2
    for name, weight in state.items():
        if match := re.fullmatch(r"projector\.(linears|norms)\.(\d+)\.(\w+)", name):
            kind, number, end = match.groups()
            place = step * int(number) + (kind == "norms")
            found[f"mlp.{end}" if linears == 1 else f"mlp.{place}.{end}"] = weight
    return found


def _ours(name: str, batch_norm: bool) -> str:
    """`4.weight` of Linear-GELU-Linear-GELU-Linear is that of `linears.2`; a projector of one layer has no numbers."""
    if "." not in name:
        return f"linears.0.{name}"
    place, end = name.split(".", 1)
    number, kind = divmod(int(place), 3 if batch_norm else 2)
    return f"{'norms' if kind else 'linears'}.{number}.{end}"
