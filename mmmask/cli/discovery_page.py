"""What `mmmask report` does: look up what the page shows of the shards, and write it."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from datamodules.gathering import chosen_pictures, gather, thumbnails
from datamodules.shards import ShardSet
from mmmask.cli.discovery_runs import MAP
from mmmask.discovery.discovery_files import read_discovery
from mmmask.errors import UserError
from mmmask.files import written_whole
from mmmask.report.discovery_page import discovery_page
from mmmask.report.plane import on_a_plane

ON_CARD, ON_MAP = 96, 48  # pixels of the longer side


def write(run: Path, data: str | None, out: Path, points: int) -> tuple[Path, int]:
    """The file, and its bytes."""
    discovery = read_discovery(run)
    told = discovery.made_from
    if out.is_dir() or not out.parent.is_dir():
        raise UserError(f"{out} is no file that can be written: give a name that ends in .html.")
    shards = ShardSet(data or str(told["data"]), allow="remote")
    texts = gather(shards, str(told["text"]), told["part"] and str(told["part"]), "none")  # type: ignore[arg-type]
    rows, places = _mapped(run, points)
    members = _members(run)
    keys, place = list(members), {category.id: n for n, category in enumerate(discovery.categories)}
    drawn = [
        (float(x), float(y), place[members[keys[row]]], keys[row])
        for (x, y), row in zip(on_a_plane(rows), places.tolist(), strict=False)
    ]
    sizes = {key: ON_MAP for *_, key in drawn}
    sizes |= {key: ON_CARD for c in discovery.categories for key in (*c.examples, *c.doubtful)}
    shown = {key: text for key, text in zip(texts.keys, texts.texts, strict=True) if key in sizes and text}
    curves = json.loads((run / "curves.json").read_text()) if (run / "curves.json").is_file() else {}
    page = discovery_page(discovery, curves, shown, _pictures(shards, told["pictures"], sizes), drawn)
    with written_whole(out) as stream:
        stream.write(content := page.encode("utf-8", "replace"))
    return out, len(content)


def _pictures(shards: ShardSet, pictures: object, sizes: dict[str, int]) -> dict[str, str]:
    """A data: URL of each key, of the first field of pictures in which it has one."""
    found: dict[str, str] = {}
    for field in chosen_pictures(shards, None if pictures is None else str(pictures)):
        wanted = {key: size for key, size in sizes.items() if key not in found}
        for key, jpeg in thumbnails(shards, field, wanted):
            found[key] = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    return found


def _mapped(run: Path, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows `(n, D)` of samples drawn by chance, and their places among all `(n,)`."""
    try:
        arrays = load_file(run / MAP)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{run / MAP} is missing or damaged ({error}). Run mmmask discover again.") from error
    chosen = np.sort(np.random.default_rng(1).permutation(len(arrays["places"]))[:most])
    return arrays["rows"][chosen].astype(np.float32), arrays["places"][chosen]


def _members(run: Path) -> dict[str, int]:
    """The id of the category of each key, in the order of the samples."""
    with open(run / "assignments.csv", encoding="utf-8", newline="") as stream:
        return {row["key"]: int(row["id"]) for row in csv.DictReader(stream)}
