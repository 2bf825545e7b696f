"""Published weights that are not of one head of SimGCD; those that are, are in parity/test_simgcd.py."""

import pytest
import torch

from mmmask.errors import UserError
from mmmask.heads import DiscoveryHead
from mmmask.pretrained.simgcd import read_simgcd_head, write_simgcd_head


def published():
    return write_simgcd_head(DiscoveryHead(8, 5, width=4, hidden=16).state_dict())


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"mlp.0.weight": torch.zeros(1)}, "here are 0"),
        (published() | {"last_layer.weight_g": torch.full((5, 1), 2.0)}, "have no lengths"),
        ({name: weight for name, weight in published().items() if "mlp" not in name}, "projector is missing"),
        (
            {f"{model}.{name}": weight for model in ("student", "teacher") for name, weight in published().items()},
            "here are 2: give those of one model",
        ),
    ],
)
def test_mistakes_are_told(weights, words):
    with pytest.raises(UserError, match=words):
        read_simgcd_head(weights)
