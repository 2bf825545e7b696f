"""Class folders, as ImageNet has them: `train/<class>/<name>.JPEG`, or `<class>/<name>.jpg` without splits."""

from __future__ import annotations

from pathlib import Path

from datamodules.convert.records import PICTURES, DataSet, Record, key_of, label_of, need
from datamodules.pack import Skipped
from mmmask.errors import UserError

SPLITS = ("train", "val", "valid", "validation", "dev", "test")


def image_folder(source: Path) -> DataSet:
    """Fields: the picture, `cls`. Classes are the folders' names, sorted, over all splits."""
    need(source, "give the folder that holds the class folders")
    splits = {name: source / name for name in SPLITS if (source / name).is_dir()} or {"train": source}
    classes = sorted({folder.name for root in splits.values() for folder in _folders(root)})
    if not classes:
        raise UserError(f"{source} holds no class folders: expected {source}/<class>/<name>.jpg.")
    return DataSet({split: _records(root, classes) for split, root in splits.items()}, classes)


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _records(root: Path, classes: list[str]) -> list[Record | Skipped]:
    numbers = {name: number for number, name in enumerate(classes)}
    records: list[Record | Skipped] = []
    for folder in _folders(root):
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_dir() or path.name.startswith("."):
                continue
            if path.suffix.lower() not in PICTURES:
                records.append(Skipped(name, f"not a picture by its name (*{path.suffix})"))
                continue
            records.append(Record(key_of(name), path, {"cls": label_of(numbers[folder.name])}))
    return records
