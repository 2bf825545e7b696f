"""The functions behind `mmmask shards ...`; their signatures and docstrings are the command's options and help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from datamodules.index import ShardError, build, index_path, load, write
from datamodules.pack import pack
from datamodules.shards import expand


def index(shards: str) -> int:
    """Write an index beside each shard.

    Args:
        shards: folder or pattern of .tar files.
    """
    bad = 0
    for url in expand(shards):
        try:
            write(build(Path(url)), index_path(Path(url)))
            print(f"{url}: {len(load(index_path(Path(url))))} samples")
        except ShardError as error:
            bad += 1
            print(f"BAD {error}")
    return 1 if bad else 0


def shapes(out: Path, count: int = 10_000, size: int = 32, seed: int = 0, split: str = "train") -> None:
    """Draw ShapesWorld scenes into shards.

    Args:
        out: folder to write into.
        count: number of scenes.
        size: side of the pictures in pixels.
        seed: decides every scene.
        split: name of the part; other parts have other scenes.
    """
    from datamodules.shapes_world import ShapesWorld

    print("\n".join(pack(ShapesWorld(size=size, seed=seed, split=split).samples(count), out, split).lines()))


COMMANDS: dict[str, Callable[..., object]] = {"index": index, "shapes": shapes}
