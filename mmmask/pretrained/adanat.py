"""Policies of AdaNAT under their published names: pure maps of names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from mmmask.errors import UserError
from mmmask.pretrained.nat import State

NAMES = {  # ours: theirs
    "embed": "x_embedder",
    "time.0": "t_embedder.mlp.0",
    "time.2": "t_embedder.mlp.2",
    "norms.0.modulation": "adaLN1.adaLN_modulation.1",
    "norms.1.modulation": "adaLN2.adaLN_modulation.1",
    "norms.2.modulation": "adaLN3.adaLN_modulation.1",
    "depthwise": "dw_conv",
    "pointwise": "pw_conv",
    "layers.0": "linear1",
    "layers.1": "linear2",
    "layers.2": "linear3",
}


def read_head(published: Mapping[str, Tensor], prefix: str = "") -> State:
    """Weights of a `PolicyHead` from those under `prefix` (`policy_old.actor.` of a published file)."""
    own = {name.removeprefix(prefix): value for name, value in published.items() if name.startswith(prefix)}
    state = {}
    for ours, theirs in NAMES.items():
        for kind in ("weight", "bias"):
            if f"{theirs}.{kind}" in own:
                state[f"{ours}.{kind}"] = own.pop(f"{theirs}.{kind}")
    if own:
        raise UserError(f"the policy has weights that this one has no place for: {', '.join(sorted(own)[:5])}.")
    return state


def sizes(head: Mapping[str, Tensor]) -> dict[str, object]:
    """Sizes of a `Policy` from the weights `read_head` gave; the side of its grid is taken to be even."""
    hidden, narrow = len(head["depthwise.weight"]), len(head["pointwise.weight"])
    shrunk = round((head["layers.0.weight"].shape[1] / narrow) ** 0.5)
    channels = head["embed.weight"].shape[1] if "embed.weight" in head else hidden
    return {
        "channels": channels,
        "tokens": (2 * shrunk) ** 2,
        "hidden": hidden,
        "narrow": narrow,
        "wide": [len(head["layers.0.weight"]), len(head["layers.1.weight"])],
    }
