"""Weights of the MaskGIT VQGAN under their published names (MAGE's and the Hub's), and under ours."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from mmmask.errors import UserError
from mmmask.pretrained.nat import State

PUBLISHED = (  # theirs, as a pattern that knows both spellings; ours
    (r"(en|de)coder\.mid\.(?:block_)?(\d)\.", r"\1coder.middle.\2."),
    (r"encoder\.down\.(\d)\.block\.(\d)\.", r"encoder.levels.\1.\2."),
    (r"decoder\.up\.(\d)\.block\.(\d)\.", r"decoder.levels.\1.\2."),
    (r"decoder\.up\.(\d)\.upsample(?:\.|_)conv\.", r"decoder.enlarge.\1."),
    (r"nin_shortcut\.", "shortcut."),
)
"""Their levels of the decoder count from the full size up, ours in the order in which they run; theirs of the middle
begin with block_1 in one spelling and with 0 in the other."""


def read_vqgan(published: Mapping[str, Tensor]) -> State:
    """Weights of a `VQGAN(EuclideanQuantizer(...), published=True)`."""
    levels = 1 + max(int(name.split(".")[2]) for name in published if name.startswith("encoder.down."))
    first = "1" if any(".block_1." in name for name in published) else "0"
    state: State = {}
    for name, value in published.items():
        if name == "quantize.embedding.weight":
            share = torch.full((len(value),), 1 / len(value))
            state |= {"quantizer.codebook": value, "quantizer.sums": value * share[:, None], "quantizer.share": share}
        else:
            state[_ours(name, levels, first)] = value
    return state


def write_vqgan(state: Mapping[str, Tensor]) -> State:
    """The names of MAGE's file for weights of a VQGAN."""
    levels = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("encoder.levels."))
    published = {"quantize.embedding.weight": state["quantizer.codebook"]}
    for name, value in state.items():
        if not name.startswith("quantizer."):
            published[_theirs(name, levels)] = value
    return published


def _ours(name: str, levels: int, first: str) -> str:
    if not name.startswith(("encoder.", "decoder.")):
        raise UserError(f"the checkpoint has '{name}', which the MaskGIT VQGAN does not have.")
    for pattern, ours in PUBLISHED:
        name = re.sub(pattern, ours, name)
    if match := re.match(r"(..coder\.middle\.)(\d)(.*)", name):
        return f"{match[1]}{int(match[2]) - int(first)}{match[3]}"
    return _turned(name, levels)


def _theirs(name: str, levels: int) -> str:
    name = _turned(name, levels).replace("shortcut.", "nin_shortcut.")
    name = re.sub(r"encoder\.levels\.(\d)\.(\d)\.", r"encoder.down.\1.block.\2.", name)
    name = re.sub(r"decoder\.levels\.(\d)\.(\d)\.", r"decoder.up.\1.block.\2.", name)
    name = re.sub(r"decoder\.enlarge\.(\d)\.", r"decoder.up.\1.upsample.conv.", name)
    return re.sub(r"middle\.(\d)\.", lambda match: f"mid.block_{int(match[1]) + 1}.", name)


def _turned(name: str, levels: int) -> str:
    """Levels of the decoder, counted from the other end."""
    return re.sub(r"(decoder\.(?:levels|enlarge)\.)(\d)", lambda match: f"{match[1]}{levels - 1 - int(match[2])}", name)
