"""ETHZ Food-101: `images/<class>/<id>.jpg`, with `meta/{classes,train,test}.txt`."""

from __future__ import annotations

from pathlib import Path

from datamodules.convert.records import DataSet, Record, label_of, need
from datamodules.pack import Skipped


def food101(source: Path) -> DataSet:
    """Fields: `jpg`, `cls`. `source` is the folder with `images` and `meta`, or the one above it."""
    if not (source / "meta").is_dir() and (source / "food-101").is_dir():
        source = source / "food-101"
    meta = need(source / "meta", "Food-101 has the folders images/ and meta/")
    classes = _lines(meta / "classes.txt")
    return DataSet({split: _records(source, split, classes) for split in ("train", "test")}, classes)


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in need(path, "it comes with Food-101").read_text().splitlines() if line.strip()]


def _records(source: Path, split: str, classes: list[str]) -> list[Record | Skipped]:
    numbers = {name: number for number, name in enumerate(classes)}
    records: list[Record | Skipped] = []
    for name in _lines(source / "meta" / f"{split}.txt"):
        folder = name.partition("/")[0]
        if folder not in numbers:
            records.append(Skipped(name, "its class is not in classes.txt"))
            continue
        records.append(Record(name, source / "images" / f"{name}.jpg", {"cls": label_of(numbers[folder])}))
    return records
