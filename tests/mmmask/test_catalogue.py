"""What the published 4M has, as the documentation tells it."""

import inspect
import re
from pathlib import Path

import torch

from mmmask.catalogue import SIZES
from mmmask.modalities import Modality
from mmmask.transformer import FourM

PAGE = (Path(__file__).parents[2] / "docs" / "cross_modal.md").read_text()


def test_the_sizes_are_those_of_the_page_and_the_base_is_the_default():
    rows = re.findall(r"^ *\| (\w+)(?:, the default)? \|" + r" (\d+) \|" * 4 + "$", PAGE, re.M)
    told = {name: dict(zip(SIZES["base"], map(int, numbers), strict=True)) for name, *numbers in rows}
    assert told == SIZES
    settings = inspect.signature(FourM).parameters
    assert {name: settings[name].default for name in SIZES["base"]} == SIZES["base"]
    assert all(f"`{name}" in PAGE and name in settings for name in ("mlp", "bias", "qk_norm", "registers", "stem"))


def test_the_sizes_have_the_weights_of_the_published_ones():
    """Its authors say 198M, 705M and 2.8B, without embeddings."""
    for name, millions, near in (("base", 198, 1), ("large", 705, 1), ("xlarge", 2800, 50)):
        with torch.device("meta"):
            backbone = FourM([Modality("a", 1, 1)], **SIZES[name])
        weights = sum(p.numel() for stack in (backbone.encoder, backbone.decoder) for p in stack.parameters())
        assert abs(weights / 1e6 - millions) < near, (name, weights)
