"""The functions behind `mmmask shards ...`; their signatures and docstrings are the command's options and help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from datamodules import overview, verify
from datamodules.index import ShardError, build, index_path, write
from datamodules.pack import pack
from datamodules.shards import ShardSet, expand


def index(shards: str) -> int:
    """Write an index beside each shard.

    Args:
        shards: folder or pattern of .tar files.
    """
    bad = 0
    for url in expand(shards):
        try:
            made = build(Path(url))
            write(made, index_path(Path(url)))
            print(f"{url}: {len(made)} samples")
        except ShardError as error:
            bad += 1
            print(f"BAD {error}")
    return 1 if bad else 0


def check(shards: str | dict[str, str]) -> int:
    """Read every byte: structure, checksums, decodability, repeated and misaligned keys. Exit code 1 if any is bad.

    Args:
        shards: folder or pattern of .tar files, or `{modality: pattern, ...}` for aligned folders.
    """
    read, bad = 0, 0

    def count(url: str) -> None:
        nonlocal read
        read += 1

    for problem in verify.problems(shards, count):
        bad += 1
        print(f"BAD {problem}")
    print(f"{read} shards read, {bad} problems found")
    return 1 if bad else 0


def show(shards: str, out: Path = Path("contact-sheet.png"), count: int = 24) -> None:
    """Print the first samples as a table and write their pictures as a contact sheet.

    Args:
        shards: folder or pattern of .tar files.
        out: the PNG to write.
        count: how many samples.
    """
    opened = ShardSet(shards)
    table = Table("key", *opened.fields, box=None)
    rows = [(shard, row) for shard in opened.shards for row in range(min(len(shard), count))][:count]
    for shard, row in rows:
        table.add_row(shard.key(row), *(overview.shown(field, shard.read(row, field)) for field in opened.fields))
    Console().print(table)
    if overview.picture_fields(opened):
        print(f"contact sheet: {overview.save_sheet(opened, out, count)}")


def stats(shards: str) -> None:
    """Count samples, fields and bytes, from the indexes alone.

    Args:
        shards: folder or pattern of .tar files.
    """
    opened = ShardSet(shards)
    table = Table("field", "samples", "absent", "total MB", "smallest", "median", "largest", box=None)
    for row in overview.statistics(opened):
        sizes = (f"{row.smallest:,}", f"{row.median:,.0f}", f"{row.largest:,}")
        table.add_row(
            row.field, f"{row.samples:,}", f"{len(opened) - row.samples:,}", f"{row.total_bytes / 1e6:,.1f}", *sizes
        )
    Console().print(table)
    print(f"{len(opened):,} samples in {len(opened.shards):,} shards")


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


COMMANDS: dict[str, Callable[..., Any]] = {
    "index": index,
    "verify": check,
    "show": show,
    "stats": stats,
    "shapes": shapes,
}
