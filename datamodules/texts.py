"""All texts of a shard set, outside of training."""

from __future__ import annotations

import numpy as np

from datamodules.readers import Text
from datamodules.shards import BadSample, ShardSet
from mmmask.errors import UserError


def texts_of(shards: ShardSet, field: str = "txt", part: str | None = None) -> list[str]:
    """The texts of all samples that have one, in their order."""
    shards.require([field])
    reader, rng, found = Text(field, part, allow_empty=True), np.random.default_rng(0), []
    for shard in shards.shards:
        for row in range(len(shard)):
            if (content := shard.read(row, field)) is None:
                continue
            try:
                found.append(reader.read(content, rng))
            except (BadSample, ValueError) as error:
                raise BadSample(f"shard {shard.name}: sample '{shard.key(row)}': {error}") from error
    found = [text for text in found if text]
    if not found:
        raise UserError(f"no sample of {shards.shards[0].name} has a text in '{field}': choose another field.")
    return found
