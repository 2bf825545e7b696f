"""The functions behind `mmmask shards ...`; their signatures and docstrings are the command's options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table

from datamodules import convert, overview, verify
from datamodules.index import ShardError, build, index_path, write
from datamodules.pack import PackReport, pack
from datamodules.remote import is_remote
from datamodules.shards import ShardSet, expand
from mmmask.errors import UserError

LONG = 20  # letters above which a column may be cut


def index(shards: str) -> int:
    """Write an index beside each shard.

    Args:
        shards: folder or pattern of .tar files.
    """
    bad = 0
    for url in expand(shards, "remote"):
        try:
            if is_remote(url):
                raise UserError(f"{url} is not on this machine: index a shard where it lies, before it is served.")
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
    opened = ShardSet(shards, allow="remote")
    samples = overview.first(opened, count)
    columns = {"key": [shard.key(row) for shard, row in samples]}
    columns |= {field: [overview.shown(shard, row, field) for shard, row in samples] for field in opened.fields}
    _print_cut({name: [name, *cells] for name, cells in columns.items()})
    if overview.picture_fields(opened):
        print(f"contact sheet: {overview.save_sheet(opened, out, count)}")


def _print_cut(columns: dict[str, list[str]]) -> None:
    """Print columns (name first); on a narrow screen long texts are cut, short ones never."""
    widths = {name: max(map(cell_len, cells)) for name, cells in columns.items()}
    long = [name for name, width in widths.items() if width > LONG]
    left = Console().width - sum(width + 2 for name, width in widths.items() if name not in long)
    for name in long:
        widths[name] = min(widths[name], max(LONG, left // len(long) - 2))
    for row in zip(*columns.values(), strict=True):
        cut = (_chop(cell, width) for cell, width in zip(row, widths.values(), strict=True))
        print("  ".join(cut).rstrip())


def _chop(text: str, width: int) -> str:
    """The text in exactly `width` places of a terminal."""
    return set_cell_size(text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…", width)


def stats(shards: str) -> None:
    """Count samples, fields and bytes, from the indexes alone.

    Args:
        shards: folder or pattern of .tar files.
    """
    opened = ShardSet(shards, allow="remote")
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

    _report({split: pack(ShapesWorld(size=size, seed=seed, split=split).samples(count), out, split)})


def _report(reports: dict[str, PackReport]) -> None:
    for split, report in reports.items():
        print("\n".join(f"{split}: {line}" for line in report.lines()))


def pack_folder(source: Path, out: Path, **packing: Any) -> None:
    """Class folders as ImageNet has them: train/<class>/<name>.jpg, or <class>/<name>.jpg without splits.

    Args:
        source: the folder that holds the splits or the classes.
        out: folder to write shards into.
    """
    _report(convert.pack_all(convert.image_folder(source), out, **packing))


def pack_pairs(pictures: Path, texts: Path, out: Path, **packing: Any) -> None:
    """Two folders, of pictures and of texts: <name>.jpg and <name>.txt are one sample.

    Args:
        pictures: folder with pictures.
        texts: folder with texts, .txt files in UTF-8.
        out: folder to write shards into.
    """
    _report(convert.pack_all(convert.pairs(pictures, texts), out, **packing))


def pack_table(
    source: Path,
    out: Path,
    image: str | None = None,
    text: str | None = None,
    label: str | None = None,
    key: str | None = None,
    split: str | None = None,
    images: Path | None = None,
    **packing: Any,
) -> None:
    """Rows of a CSV, TSV, JSON lines, JSON or Parquet file.

    Args:
        source: the file.
        out: folder to write shards into.
        image: column with the paths of the pictures.
        text: column with texts.
        label: column with classes, as names or numbers.
        key: column with the samples' keys (default: numbers of the rows).
        split: column that says train, test, ... (default: all train).
        images: folder that the pictures' paths start at (default: that of the file).
    """
    columns = convert.Columns(image, text, label, key, split)
    _report(convert.pack_all(convert.table(source, columns, images), out, **packing))


def pack_food101(source: Path, out: Path, **packing: Any) -> None:
    """ETHZ Food-101: images/ and meta/.

    Args:
        source: its folder.
        out: folder to write shards into.
    """
    _report(convert.pack_all(convert.food101(source), out, **packing))


def pack_upmc_food101(source: Path, out: Path, **packing: Any) -> None:
    """UPMC-Food-101, pictures with titles: images/ and texts/.

    Args:
        source: its folder.
        out: folder to write shards into.
    """
    _report(convert.pack_all(convert.upmc_food101(source), out, **packing))


def pack_n24news(source: Path, out: Path, text: convert.TextField = "abstract", **packing: Any) -> None:
    """N24News, pictures with texts of 24 sections: news/ and imgs/.

    Args:
        source: its folder.
        out: folder to write shards into.
        text: which text goes with the picture.
    """
    _report(convert.pack_all(convert.n24news(source, text), out, **packing))


COMMANDS: dict[str, Any] = {
    "pack": {
        "_help": "turn raw data into shards: a folder tree, folders of pairs, a table, or a published data set",
        "folder": pack_folder,
        "pairs": pack_pairs,
        "table": pack_table,
        "food101": pack_food101,
        "upmc-food101": pack_upmc_food101,
        "n24news": pack_n24news,
    },
    "shapes": shapes,
    "index": index,
    "verify": check,
    "show": show,
    "stats": stats,
}
