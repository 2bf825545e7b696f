"""Which samples of a shard set: by what their records say, by their keys, or by who labels them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.shards import BadSample, Shard, ShardSet
from mmmask.discovery.protocol import Protocol
from mmmask.errors import UserError


@dataclass
class Where:
    """Samples whose JSON record, in `field`, has one of these `values` in this `part`: without values, any but null.
    Or those whose `keys` are in a file, one a line."""

    part: str | None = None
    values: list[Any] | None = None
    keys: Path | None = None
    field: str = "json"

    def __post_init__(self) -> None:
        if (self.part is None) == (self.keys is None) or (self.values is not None and self.part is None):
            raise UserError("where: give the part of the record that decides, or a file of keys.")

    def of(self, shards: ShardSet) -> ShardSet:
        """Those of a set; none is an error."""
        if self.keys is not None:
            return with_keys(shards, set(_lines(self.keys)), str(self.keys))
        wanted = {key for key, record in records(shards, self.field, self.part) if self._fits(record)}
        what = f"anything but null in '{self.part}'" if self.values is None else f"{self.values} in '{self.part}'"
        return with_keys(shards, wanted, f"where: records with {what}")

    def _fits(self, record: dict[str, Any]) -> bool:
        value = record[str(self.part)]
        return value is not None if self.values is None else value in self.values


@dataclass
class Labelled:
    """Those that a `protocol` of category discovery labels have this `share` of the training samples that are drawn,
    each of them more often than the others if there are few; the others have the rest."""

    protocol: Path
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UserError(f"labelled: share is above 0 and below 1; it is {self.share}.")

    def split(self, shards: ShardSet) -> tuple[list[ShardSet], tuple[float, float]]:
        """The others and the labelled, with the weights of a mixture."""
        protocol, keys = Protocol.read(self.protocol), set(keys_of(shards))
        protocol.check(keys, str(self.protocol))
        sets = [
            with_keys(shards, some, str(self.protocol)) for some in (keys - set(protocol.labelled), protocol.labelled)
        ]
        return sets, (1 - self.share, self.share)


def keys_of(shards: ShardSet) -> Iterator[str]:
    """The keys of all samples."""
    return (shard.key(row) for shard in shards.shards for row in range(len(shard)))


def with_keys(shards: ShardSet, keys: Collection[str], who: str) -> ShardSet:
    """The samples that have these keys, which `who` asks for."""
    rows = [[row for row in range(len(shard)) if shard.key(row) in keys] for shard in shards.shards]
    chosen = [shard.at(np.array(own)) for shard, own in zip(shards.shards, rows, strict=True) if own]
    if not chosen:
        raise UserError(f"{who}: no sample of {shards.shards[0].name} is so.")
    return ShardSet.of(chosen)


def records(shards: ShardSet, field: str = "json", part: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and JSON record of each sample; a sample without record, or without this `part`, is an error. A field that
    holds a number alone is a record of this part."""
    shards.require([field])
    for shard in shards.shards:
        for row in range(len(shard)):
            yield shard.key(row), _record(shard, row, field, part)


def _record(shard: Shard, row: int, field: str, part: str | None) -> dict[str, Any]:
    content, where = shard.read(row, field), f"shard {shard.name}: sample '{shard.key(row)}'"
    try:
        record = json.loads(content or b"null")
    except ValueError as error:
        raise BadSample(f"{where}: '{field}' is no JSON ({error})") from error
    if isinstance(record, int) and part is not None:
        return {part: record}
    if not isinstance(record, dict) or (part is not None and part not in record):
        raise BadSample(f"{where}: its record, '{field}', has no '{part}'")
    return record


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise UserError(f"cannot read the keys {path}: {error.strerror}.") from error
