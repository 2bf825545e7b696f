"""A discovery as two files, `discovery.safetensors` and `discovery.json`: nothing in them can run code."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from mmmask.discovery.calibration import Calibration
from mmmask.discovery.categories import Category, Discovery
from mmmask.discovery.picture_features import PictureFeatures
from mmmask.discovery.space import Space
from mmmask.discovery.text_features import TextFeatures
from mmmask.errors import UserError
from mmmask.files import written_whole

ARRAYS, RECORD = "discovery.safetensors", "discovery.json"
FORMAT = "mmmask-discovery-1"


def is_discovery(folder: Path) -> bool:
    return (folder / RECORD).is_file()


def write_discovery(folder: Path, discovery: Discovery) -> None:
    """The record comes last: a folder that has one is complete."""
    space = discovery.space
    arrays: dict[str, NDArray[Any]] = {name: getattr(discovery, name) for name in ("centres", "owner", "radii")}
    arrays |= {f"means.{name}": mean for name, mean in space.means.items()}
    if space.text is not None:
        arrays |= {"text.weights": space.text.weights, "text.basis": space.text.basis}
    for name, part in space.pictures.items():
        arrays |= {f"pictures.{name}.mean": part.mean, f"pictures.{name}.basis": part.basis}
    record = {
        "format": FORMAT,
        "categories": [asdict(category) for category in discovery.categories],
        "words": list(space.text.words) if space.text is not None else None,
        "pictures": list(space.pictures),
        "given": space.given,
        "weights": space.weights,
        "calibration": asdict(discovery.calibration),
        "far": discovery.far,
        "next_id": discovery.next_id,
        "made_from": discovery.made_from,
    }
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with written_whole(folder / ARRAYS) as stream:
        stream.write(save(whole))
    with written_whole(folder / RECORD) as stream:
        stream.write(json.dumps(record, ensure_ascii=False, indent=1).encode())


def read_discovery(folder: Path) -> Discovery:
    """What `write_discovery` wrote; a sentence where that is damaged."""
    if not is_discovery(folder):
        raise UserError(f"{folder} is no folder that mmmask discover wrote: it has no {RECORD}.")
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        arrays = load_file(folder / ARRAYS)
        return _built(record, arrays)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        what = f"{error}".splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{folder} is damaged: {what}. Run mmmask discover again.") from error


def _built(record: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Discovery:
    if record["format"] != FORMAT:
        raise ValueError(f"its format is {record['format']}, expected {FORMAT}")
    text = None
    if record["words"] is not None:
        words = {word: n for n, word in enumerate(record["words"])}
        text = TextFeatures(words, arrays["text.weights"], arrays["text.basis"])
        if len(words) != len(text.basis):
            raise ValueError(f"{len(words)} words have {len(text.basis)} vectors")
    pictures = {
        name: PictureFeatures(arrays[f"pictures.{name}.mean"], arrays[f"pictures.{name}.basis"])
        for name in record["pictures"]
    }
    means = {name.removeprefix("means."): array for name, array in arrays.items() if name.startswith("means.")}
    space = Space(text, pictures, record["given"], record["weights"], means)
    categories = [Category(**category) for category in record["categories"]]
    owner = arrays["owner"]
    if len(owner) != len(arrays["centres"]) or set(owner.tolist()) != set(range(len(categories))):
        raise ValueError("its centres belong to other categories than it lists")
    told: dict[str, Any] = {
        name: tuple(part) if isinstance(part, list) else part for name, part in record["calibration"].items()
    }
    return Discovery(
        categories,
        space,
        arrays["centres"],
        owner,
        arrays["radii"],
        Calibration(**told),
        float(record["far"]),
        int(record["next_id"]),
        record["made_from"],
    )
