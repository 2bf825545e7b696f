"""Data in files that a person names: pictures, JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmmask.errors import UserError

MODES: dict[int, Literal["L", "RGB", "RGBA"]] = {1: "L", 3: "RGB", 4: "RGBA"}


def picture_in(path: Path, channels: int, side: int | None = None) -> Tensor:
    """A picture `(channels, H, W)` in 0..1, scaled to so many pixels; what is transparent is laid on white, unless
    there are four channels."""
    if channels not in MODES:
        raise UserError(f"{path}: a picture file has 1, 3 or 4 channels, not {channels}.")
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGBA")
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist.") from error
    except OSError as error:
        raise UserError(f"{path} is no picture that can be read.") from error
    if channels < 4:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert(MODES[channels])
    if side is not None:
        picture = picture.resize((side, side))
    array = np.asarray(picture, dtype=np.float32) / 255
    return torch.from_numpy(array).reshape(picture.height, picture.width, channels).permute(2, 0, 1)


def json_in(path: Path) -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}.") from error
