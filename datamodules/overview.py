"""What is in a shard set: a table of its fields, and a contact sheet of its first pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

from datamodules.index import ABSENT
from datamodules.pictures import on_white, see_through
from datamodules.shards import Member, Shard, ShardSet
from mmmask.errors import UserError
from mmmask.files import written_whole

PICTURES = ("jpg", "jpeg", "png", "webp")
MAX_PIXELS = 64_000_000  # larger pictures are not opened
HEADER, CAPTION = 14, 30  # pixels for the names of the fields, and for two lines of text
_SEGMENTS = [(0, 0, 0), (1, 1, 1), *colormaps["tab20"](np.arange(20))[:, :3]]  # id -> colour
SEGMENT_COLOURS = (np.array(_SEGMENTS) * 255).astype(np.uint8)


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
    return [field for field in shards.fields if _kind(field) in PICTURES]


def first(shards: ShardSet, count: int) -> list[tuple[Shard, int]]:
    """The first samples, each as its shard and its place there."""
    if count < 1:
        raise UserError(f"count is {count}; give a number of samples of 1 or more.")
    return list(islice(((shard, row) for shard in shards.shards for row in range(len(shard))), count))


def shown(shard: Shard, row: int, field: str) -> str:
    """A field in a table: text as it is, pictures and arrays by their shape, the rest by its size."""
    try:
        content = shard.read(row, field)
        return "-" if content is None else _DESCRIBED.get(_kind(field), _described_bytes)(content)
    except Exception:  # damaged bytes make the decoders raise all kinds
        return "BROKEN"


def _kind(field: str) -> str:
    return field.rpartition(".")[2].lower()


def _described_text(content: bytes) -> str:
    return "".join(letter for letter in " ".join(content.decode().split()) if letter.isprintable())


def _described_picture(content: bytes) -> str:
    picture = _opened(content)
    return f"{picture.width}x{picture.height} {picture.mode}"


def _described_array(content: bytes) -> str:
    array = np.load(io.BytesIO(content), allow_pickle=False)
    return f"{'x'.join(map(str, array.shape))} {array.dtype}"


def _described_bytes(content: bytes) -> str:
    return f"{len(content):,} B"


_DESCRIBED: dict[str, Callable[[bytes], str]] = {
    **dict.fromkeys(("txt", "cls", "json"), _described_text),
    **dict.fromkeys(PICTURES, _described_picture),
    "npy": _described_array,
}


def contact_sheet(shards: ShardSet, count: int = 24, cell: int = 128) -> Image.Image:
    """The first samples: their pictures side by side, named at the top, with key and text below."""
    fields = picture_fields(shards)
    if not fields:
        raise UserError(f"no field of {shards.shards[0].name} holds pictures; fields: {', '.join(shards.fields)}.")
    texts = [field for field in shards.fields if _kind(field) in ("txt", "cls")]
    caption = max(texts, key=_kind, default=None)  # txt before cls
    across = max(1, 8 // len(fields))
    samples = first(shards, count)
    width, height = cell * len(fields) + 8, cell + CAPTION + 8
    down = -(-len(samples) // across)
    sheet = Image.new("RGB", (min(across, len(samples)) * width, HEADER + down * height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (shard, row) in enumerate(samples):
        left, top = place % across * width + 4, HEADER + place // across * height + 4
        for column, field in enumerate(fields):
            if place < across:
                draw.text((left + column * cell, 2), _fitted(draw, field, cell), fill="gray")
            sheet.paste(_thumbnail(shard, row, field, cell), (left + column * cell, top))
        draw.text((left, top + cell + 2), _fitted(draw, shard.key(row), width - 8), fill="black")
        if caption is not None:
            draw.text((left, top + cell + 14), _fitted(draw, shown(shard, row, caption), width - 8), fill="gray")
    return sheet


def _fitted(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """The text, cut with dots where it is wider than `width` pixels; letters its font lacks become `?`."""
    text = text.encode("latin-1", "replace").decode("latin-1")
    if draw.textlength(text) <= width:
        return text
    while text and draw.textlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _thumbnail(shard: Shard, row: int, field: str, cell: int) -> Image.Image:
    """A picture fitted into a square; a grey square where it is absent, a crossed one where it is broken."""
    square = Image.new("RGB", (cell, cell), (235, 235, 235))
    try:
        if (content := shard.read(row, field)) is None:
            return square
        picture = _visible(_opened(content))
    except Exception:  # damaged bytes make the decoders raise all kinds
        draw = ImageDraw.Draw(square)
        draw.line((0, 0, cell, cell), fill="red")
        draw.line((0, cell, cell, 0), fill="red")
        return square
    scale = (cell - 4) / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS)
    square.paste(picture, ((cell - size[0]) // 2, (cell - size[1]) // 2))
    return square


def _opened(content: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(content))
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError("too large to show")
    picture.load()
    return picture


def _visible(picture: Image.Image) -> Image.Image:
    """As RGB: transparency on white; grey pictures of few small numbers (masks, segment ids) in colours."""
    if see_through(picture):
        return on_white(picture)
    if picture.mode in ("L", "I", "I;16"):
        values = np.asarray(picture)
        if 0 < values.max() < len(SEGMENT_COLOURS):
            return Image.fromarray(SEGMENT_COLOURS[values])
        if values.dtype != np.uint8:
            return Image.fromarray((values / max(1, values.max()) * 255).astype(np.uint8)).convert("RGB")
    return picture.convert("RGB")


def save_sheet(shards: ShardSet, path: Path, count: int) -> Path:
    """Write the contact sheet as PNG."""
    if path.suffix.lower() != ".png":
        raise UserError(f"the contact sheet is a PNG: choose a name that ends in .png, not '{path.name}'.")
    sheet = contact_sheet(shards, count)
    with written_whole(path) as stream:
        sheet.save(stream, "PNG")
    return path
