"""All that discovery looks at in shards: keys, texts, histograms of pictures, small pictures for a page."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image as Pillow

from datamodules.overview import picture_fields
from datamodules.pictures import on_white, see_through, with_8_bits
from datamodules.readers import Reader, Text
from datamodules.shards import BadSample, Shard, ShardSet
from mmmask.discovery.picture_features import SIDE, hog
from mmmask.discovery.space import Samples
from mmmask.errors import UserError

BATCH = 128
MOST_PIXELS = 64_000_000


def gather(shards: ShardSet, text: str = "txt", part: str | None = None, pictures: str | None = None) -> Samples:
    """Texts of a field (of an entry `part` of its JSON) and histograms of all fields of pictures, or of these (names
    separated by commas; none: no pictures), of all samples."""
    keys = [shard.key(row) for shard in shards.shards for row in range(len(shard))]
    if text in shards.fields:
        reader = Text(text, part, allow_empty=True)
        texts = [_read(shard, row, reader) for shard in shards.shards for row in range(len(shard))]
    elif text != "txt" or part is not None:
        shards.require([text])
    else:
        texts = [""] * len(keys)
    return Samples(keys, texts, {field: _histograms(shards, field) for field in chosen_pictures(shards, pictures)})


def chosen_pictures(shards: ShardSet, pictures: str | None) -> list[str]:
    """The fields of pictures that are meant."""
    if pictures is None:
        return picture_fields(shards)
    chosen = [name.strip() for name in pictures.split(",") if name.strip() not in ("", "none")]
    shards.require(chosen)
    return chosen


def thumbnails(shards: ShardSet, field: str, wanted: dict[str, int]) -> Iterator[tuple[str, bytes]]:
    """(key, JPEG) of the keys that are `wanted`, each with its longer side; broken and absent pictures are left out."""
    for shard in shards.shards:
        for row in range(len(shard)):
            if (key := shard.key(row)) in wanted and (picture := _picture(shard, row, field, quiet=True)) is not None:
                picture.thumbnail((wanted[key], wanted[key]))
                stream = io.BytesIO()
                picture.save(stream, "JPEG", quality=78)
                yield key, stream.getvalue()


def _read(shard: Shard, row: int, reader: Reader) -> str:
    content = shard.read(row, reader.field)
    try:
        return "" if content is None else reader.read(content, np.random.default_rng(0))
    except (BadSample, ValueError) as error:
        raise BadSample(f"shard {shard.name}: sample '{shard.key(row)}': {error}") from error


def _histograms(shards: ShardSet, field: str) -> np.ndarray:
    """(N, D) float16; zeros where there is no picture."""
    found = np.zeros((len(shards), hog(torch.zeros(1, 1, SIDE, SIDE)).shape[1]), dtype=np.float16)
    where = [(shard, row) for shard in shards.shards for row in range(len(shard))]
    for start in range(0, len(where), BATCH):
        read = {start + n: _picture(*at, field) for n, at in enumerate(where[start : start + BATCH])}
        there = {place: picture for place, picture in read.items() if picture is not None}
        if there:
            grey = np.stack([np.array(picture.convert("L").resize((SIDE, SIDE))) for picture in there.values()])
            found[[*there]] = hog(torch.from_numpy(grey)[:, None].float() / 255).numpy()
    return found


def _picture(shard: Shard, row: int, field: str, quiet: bool = False) -> Pillow.Image | None:
    """On white, as RGB."""
    try:
        if (content := shard.read(row, field)) is None:
            return None
        picture = Pillow.open(io.BytesIO(content))
        if picture.width * picture.height > MOST_PIXELS:
            raise UserError(f"more than {MOST_PIXELS:,} pixels")
        picture.draft("RGB", (2 * SIDE, 2 * SIDE))
        return on_white(picture) if see_through(picture) else with_8_bits(picture).convert("RGB")
    except Exception as error:  # damaged bytes make the decoders raise all kinds
        if quiet:
            return None
        raise BadSample(
            f"shard {shard.name}: sample '{shard.key(row)}', field '{field}' is not a readable image ({error})"
        ) from error
