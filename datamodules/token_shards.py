"""Token shards: the tokens of every sample, in shards aligned with those they were made from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from datamodules.loading import ShardLoader
from datamodules.order import EpochOrder, Mixture
from datamodules.pack import Sample, array_bytes, write_shard
from datamodules.readers import Reader
from datamodules.samples import Samples, Tolerance
from datamodules.shards import Shard, ShardSet, Urls
from datamodules.windows import Window, Windows
from mmmask.errors import UserError, nearest
from mmmask.files import only_writer

KEEP = ("cls", "txt")  # small fields that are copied where they are there
CENTRE = Windows(1)


class Copy(NamedTuple):
    """One of the windows of each sample."""

    windows: Windows
    number: int

    def window(self, key: str) -> Window:
        return self.windows.of(key, self.number)

    def sample(self, key: str) -> Sample:
        """What it is written as, still without tokens."""
        if self.windows.count == 1:
            return {"__key__": key}
        return {"__key__": f"{key}-{self.number}", "crop.json": json.dumps(asdict(self.window(key))).encode()}


class Windowed(Samples):
    """Samples of which all modalities are seen through the same window."""

    def __init__(self, sets: list[ShardSet], order: Mixture, readers: Mapping[str, Reader], copy: Copy) -> None:
        super().__init__(sets, order, readers, Tolerance(), seed=0)
        self.copy = copy

    def readers_of(self, key: str) -> Mapping[str, Reader]:
        window = self.copy.window(key)
        return {name: reader.through(window) for name, reader in self.readers.items()}


def write_token_shards(
    urls: Urls,
    modalities: Mapping[str, Reader],
    tokens: Callable[[dict[str, Any]], dict[str, torch.Tensor]],
    out: Path,
    keep: list[str],
    batch_size: int,
    overwrite: bool = False,
    windows: Windows = CENTRE,
) -> list[str]:
    """Write `out/<shard name>` for each shard of `urls`: one .npy of ids per name that `tokens(batch)` returns.

    Fields in `keep` (labels, texts) are copied. Of several windows each makes a sample of its own, `<key>-<number>`,
    with the window as crop.json. Returns what was done, as lines.
    """
    source, out = ShardSet(urls, allow="remote"), Path(out)
    taken = [out / Path(shard.name).name for shard in source.shards if (out / Path(shard.name).name).exists()]
    if taken and not overwrite:
        raise UserError(f"{taken[0]} exists already. Choose another folder or --overwrite.")
    own = {Path(member.url).resolve() for shard in source.shards for member in shard.members}
    if replaced := own & {path.resolve() for path in taken}:
        raise UserError(f"{min(replaced)} is to be tokenized: its tokens cannot take its place. Choose another folder.")
    if unknown := sorted({field for field in keep if field not in source.fields} - set(KEEP)):
        raise UserError(f"no sample has the field '{unknown[0]}' to keep.{nearest(unknown[0], source.fields)}")
    if len({Path(shard.name).name for shard in source.shards}) < len(source.shards):
        raise UserError("several shards have the same file name: tokenize each folder into a folder of its own.")
    written, copies = 0, [Copy(windows, number) for number in range(windows.count)]
    with only_writer(out):
        for number, shard in enumerate(source.shards):
            samples = (
                _token_samples(shard, _one_shard(source, number, modalities, batch_size, copy), tokens, keep, copy)
                for copy in copies
            )
            written += write_shard(chain.from_iterable(samples), out / Path(shard.name).name)
    what = (
        f"{written} samples" if windows.count == 1 else f"{windows.count} crops of {written // windows.count} samples"
    )
    return [f"wrote the tokens of {what} in {len(source.shards)} shards to {out}"]


def _one_shard(
    source: ShardSet, number: int, modalities: Mapping[str, Reader], batch_size: int, copy: Copy
) -> ShardLoader:
    alone = ShardSet.of([source.shards[number]])
    order = Mixture((EpochOrder(alone.counts, shuffle=False),), (1.0,), len(alone))
    readers = {name: reader.steady() for name, reader in modalities.items()}
    if copy.windows.count == 1:
        return ShardLoader(Samples([alone], order, readers, Tolerance(), seed=0), batch_size)
    return ShardLoader(Windowed([alone], order, readers, copy), batch_size)


def _token_samples(
    shard: Shard,
    loader: ShardLoader,
    tokens: Callable[[dict[str, Any]], dict[str, torch.Tensor]],
    keep: list[str],
    copy: Copy,
) -> Iterator[Sample]:
    row = 0
    for batch in loader:
        with torch.inference_mode():
            ids = {name: value.cpu().numpy() for name, value in tokens(batch).items()}
        for i, key in enumerate(batch["key"]):
            sample = copy.sample(key)
            for name, value in ids.items():
                sample[f"{name}.npy"] = array_bytes(_narrow(value[i]))
            for field in keep:
                if (content := shard.read(row, field)) is not None:
                    sample[field] = content
            row += 1
            yield sample


def _narrow(ids: np.ndarray) -> np.ndarray:
    """uint16 holds every vocabulary up to 65,536; larger ones take uint32."""
    return ids.astype(np.uint16 if ids.max(initial=0) < 1 << 16 else np.uint32)
