"""What is in a shard set: a table of its fields, and a contact sheet of its first pictures."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from datamodules.index import ABSENT
from datamodules.shards import Member, ShardSet
from mmmask.errors import UserError

PICTURES = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class FieldStatistics:
    """How often a field occurs and how large it is."""

    field: str
    samples: int
    total_bytes: int
    smallest: int
    median: float
    largest: int


def statistics(shards: ShardSet) -> list[FieldStatistics]:
    """Per field, from the indexes alone."""
    rows = []
    for field in shards.fields:
        sizes = np.concatenate([_sizes(member.index.sizes[:, c]) for member, c in _columns(shards, field)])
        quantiles = (int(sizes.min()), float(np.median(sizes)), int(sizes.max()))
        rows.append(FieldStatistics(field, len(sizes), int(sizes.sum()), *quantiles))
    return rows


def _columns(shards: ShardSet, field: str) -> Iterator[tuple[Member, int]]:
    return (shard.places[field] for shard in shards.shards if field in shard.places)


def _sizes(column: np.ndarray) -> np.ndarray:
    return np.asarray(column[column != ABSENT])


def picture_fields(shards: ShardSet) -> list[str]:
    """The fields that hold pictures."""
    return [field for field in shards.fields if field.rpartition(".")[2].lower() in PICTURES]


def contact_sheet(shards: ShardSet, count: int = 24, cell: int = 128) -> Image.Image:
    """The first samples, one column each picture field, with key and text below."""
    fields = picture_fields(shards)
    if not fields:
        raise UserError(f"no field of {shards.shards[0].name} holds pictures; fields: {', '.join(shards.fields)}.")
    across = max(1, 8 // len(fields))
    samples = [(shard, row) for shard in shards.shards for row in range(min(len(shard), count))][:count]
    caption = 30
    width, height = cell * len(fields) + 8, cell + caption + 8
    sheet = Image.new("RGB", (across * width, -(-len(samples) // across) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (shard, row) in enumerate(samples):
        left, top = place % across * width + 4, place // across * height + 4
        for column, field in enumerate(fields):
            content = shard.read(row, field)
            sheet.paste(_thumbnail(content, cell), (left + column * cell, top))
        text = shard.read(row, "txt") or shard.read(row, "cls") or b""
        letters = (width - 8) // 6
        draw.text((left, top + cell + 2), shard.key(row)[:letters], fill="black")
        draw.text((left, top + cell + 14), text.decode(errors="replace").strip()[:letters], fill="gray")
    return sheet


def _thumbnail(content: bytes | None, cell: int) -> Image.Image:
    """A picture fitted into a square; small ones are enlarged with hard edges; a grey square where absent."""
    square = Image.new("RGB", (cell, cell), (235, 235, 235))
    if content is None:
        return square
    picture: Image.Image = Image.open(io.BytesIO(content))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture.convert("RGBA"))
        picture = white
    scale = (cell - 4) / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    resample = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    picture = picture.convert("RGB").resize(size, resample)
    square.paste(picture, ((cell - size[0]) // 2, (cell - size[1]) // 2))
    return square


def save_sheet(shards: ShardSet, path: Path, count: int) -> Path:
    """Write the contact sheet as PNG."""
    contact_sheet(shards, count).save(path)
    return path


def shown(field: str, content: bytes | None) -> str:
    """A field in a table: text as it is, the rest by its size."""
    if content is None:
        return "-"
    if field.rpartition(".")[2] in ("txt", "cls", "json"):
        text = content.decode(errors="replace").strip()
        return text if len(text) <= 40 else f"{text[:39]}…"
    return f"{len(content):,} B"
