"""Pictures as Pillow opens them -> the plain forms that are stored, shown and learned from."""

from __future__ import annotations

import numpy as np
from PIL import Image


def see_through(picture: Image.Image) -> bool:
    """Whether it has transparent parts."""
    return picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info


def on_white(picture: Image.Image) -> Image.Image:
    """A see-through picture laid on white, as RGB."""
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture.convert("RGBA"))
    return white.convert("RGB")


def with_8_bits(picture: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits (Pillow's own conversion cuts off what is above 255); others as they are."""
    if not picture.mode.startswith("I;16"):
        return picture
    return Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
