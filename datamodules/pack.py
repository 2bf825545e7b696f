"""Writing shards: samples in, `<split>-00000.tar` with its index out; nothing appears half-written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.index import build, index_path, write
from mmmask.errors import UserError
from mmmask.files import only_writer, written_whole

Sample = dict[str, Any]  # "__key__": str, and field -> bytes


@dataclass(frozen=True)
class Skipped:
    """A raw record that a converter could not use."""

    key: str
    reason: str


@dataclass
class PackReport:
    """What was written, and what was skipped and why."""

    samples: int = 0
    shards: list[Path] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)  # reason -> first key

    def skip(self, record: Skipped) -> None:
        """Count a skipped record."""
        self.skipped[record.reason] += 1
        self.examples.setdefault(record.reason, record.key)

    def lines(self) -> list[str]:
        """The report as sentences."""
        total = sum(path.stat().st_size for path in self.shards)
        lines = [f"wrote {self.samples} samples in {len(self.shards)} shards ({total / 1e6:.1f} MB)"]
        for reason, count in self.skipped.most_common():
            lines.append(f"skipped {count}: {reason} (first: {self.examples[reason]})")
        return lines


def pack(
    records: Iterable[Sample | Skipped],
    out: Path,
    split: str = "train",
    samples_per_shard: int = 10_000,
    shard_megabytes: int = 1000,
    overwrite: bool = False,
) -> PackReport:
    """Write samples into `out/<split>-00000.tar`, each with an index beside it.

    A shard is closed at `samples_per_shard` samples or `shard_megabytes`, whichever comes first. All shards
    get their final names at the very end: a pack that fails or is stopped leaves none.
    """
    if samples_per_shard < 1 or shard_megabytes < 1:
        raise UserError("samples_per_shard and shard_megabytes must be at least 1.")
    out = Path(out)
    with only_writer(out):
        old = shards_of(split, out)
        if old and not overwrite:
            raise UserError(
                f"{out} already holds {len(old)} shards of '{split}'. Choose another folder or --overwrite."
            )
        staging = out / f".{split}.packing"
        _remove(staging)
        try:
            staging.mkdir()
            report = _write_shards(_distinct(records), staging, split, samples_per_shard, shard_megabytes << 20)
            if not report.samples:
                reasons = "; ".join(report.lines()[1:]) or "the source is empty"
                raise UserError(f"nothing to pack for '{split}': {reasons}.")
            for path in old:
                path.unlink()
                index_path(path).unlink(missing_ok=True)
            report.shards = [_publish(path, out) for path in report.shards]
        except OSError as error:
            raise UserError(f"cannot write into {out}: {error.strerror or error}. No shard was left behind.") from error
        finally:
            _remove(staging)
    return report


def shards_of(split: str, folder: Path) -> list[Path]:
    """The shards `<split>-00000.tar` of a folder; those of a split with a longer name are not among them."""
    name = re.compile(re.escape(split) + r"-\d{5,}\.tar")
    return sorted(path for path in folder.glob("*.tar") if name.fullmatch(path.name))


def _write_shards(
    records: Iterable[Sample | Skipped], folder: Path, split: str, samples_per_shard: int, shard_bytes: int
) -> PackReport:
    report = PackReport()
    samples = _used(records, report)
    for first in samples:
        path = folder / f"{split}-{len(report.shards):05d}.tar"
        report.samples += write_shard(_until_full(first, samples, samples_per_shard, shard_bytes), path)
        report.shards.append(path)
    return report


def write_shard(samples: Iterable[Sample], path: Path) -> int:
    """Write one tar and its index, whole or not at all; returns the number of samples."""
    from webdataset import TarWriter

    index_path(path).unlink(missing_ok=True)  # of an older tar of this name
    with written_whole(path) as stream, TarWriter(stream, encoder=False, mtime=0) as tar:
        for sample in samples:
            tar.write(sample)
    index = build(path)
    write(index, index_path(path))
    return len(index)


def _until_full(first: Sample, rest: Iterator[Sample], samples_per_shard: int, shard_bytes: int) -> Iterator[Sample]:
    """`first` and as many of `rest` as fit into a shard."""
    sample, count, size = first, 0, 0
    while True:
        yield sample
        count += 1
        size += sum(len(value) for value in sample.values())
        if count >= samples_per_shard or size >= shard_bytes:
            return
        following = next(rest, None)
        if following is None:
            return
        sample = following


def _used(records: Iterable[Sample | Skipped], report: PackReport) -> Iterator[Sample]:
    for record in records:
        if isinstance(record, Skipped):
            report.skip(record)
        else:
            yield record


def _distinct(records: Iterable[Sample | Skipped]) -> Iterator[Sample | Skipped]:
    """Turns a sample whose key occurred before into a skipped one (64-bit hashes keep this small)."""
    seen: set[int] = set()
    for record in records:
        if isinstance(record, Skipped):
            yield record
            continue
        key = record["__key__"]
        name = key.rpartition("/")[2]
        if "." in name or not name or key.startswith("/") or ".." in key.split("/"):
            yield Skipped(key, "a key must be a relative path without dots")
        elif not _is_utf8(key):
            yield Skipped(ascii(key), "a key must be UTF-8")
        elif (mark := hash(key)) in seen:
            yield Skipped(key, "duplicate key")
        elif len(record) < 2:
            yield Skipped(key, "a sample without any field")
        else:
            seen.add(mark)
            yield record


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a character, or a file name in another encoding
        return False
    return True


def _publish(path: Path, out: Path) -> Path:
    """Give a finished shard its final name; its index goes first, so no shard is ever without one."""
    index_path(path).replace(index_path(out / path.name))
    return path.replace(out / path.name)


def _remove(folder: Path) -> None:
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


def array_bytes(array: np.ndarray) -> bytes:
    """An array as the bytes of an .npy file."""
    import io

    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
