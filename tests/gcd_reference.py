"""Outputs of the published code of category discovery: SimGCD, GCD and GET."""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file

from mmmask.discovery import Looks
from mmmask.heads import DiscoveryHead
from mmmask.pretrained.simgcd import read_simgcd_head

FIXTURES = Path(__file__).parent / "fixtures" / "gcd"


def vectors(name):
    """Tensors, and what is told of them."""
    return load_file(FIXTURES / f"{name}.safetensors"), told(name)


def told(name):
    return json.loads((FIXTURES / f"{name}.json").read_text())


def part(data, prefix):
    return {name.removeprefix(prefix): value for name, value in data.items() if name.startswith(prefix)}


def head_of(data, prefix, config):
    """A head with published weights; `config` has the sizes of the reference."""
    weights = part(data, prefix)
    dim = weights["last_layer.weight_v"].shape[1]
    classes = len(weights["last_layer.weight_v"])
    sizes = (config["bottleneck"], config["hidden"] or 1, config["nlayers"], config.get("bn", False))
    head = DiscoveryHead(dim, classes, *sizes)
    head.load_state_dict(read_simgcd_head(weights))
    return head


def two_views(rows):
    """`(2 B, ...)`, the first view of all samples and then the second, to `(1, 2, B, ...)`."""
    return rows.unflatten(0, (1, 2, -1))


def looks(head, rows):
    """Of features in one modality, `(2 B, D)`, or of several stacked, `(M, 2 B, D)`."""
    features = rows.unflatten(-2, (2, -1))
    return Looks.through(head, features if rows.ndim == 3 else features[None])


def batches(data, number):
    """Both views `(2 B, D)`, labels, which are labelled."""
    for n in range(number):
        batch = part(data, f"batch{n}.")
        yield torch.cat([batch["view1"], batch["view2"]]), batch["labels"], batch["mask_lab"].bool()


def losses_of(line):
    """What the published code logs of one step, `name value` or `name: value`."""
    return {name: float(value) for name, value in re.findall(r"(\w+):? (\d+\.\d+)", line)}


def apart(ours, theirs):
    """The distance of two tensors, relative to the second."""
    return ((ours - theirs).norm() / theirs.norm()).item()
