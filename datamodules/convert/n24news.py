"""N24News: New York Times pictures with headline, abstract, caption, body and one of 24 sections.

`news/nytimes_{train,dev,test}.json` or one `nytimes_dataset[_full].json`, each a list of records; pictures in
`imgs/<image_id>.jpg` or `images/<image_id>.jpg`. The crawl stored whatever the server answered, so some
pictures are HTML pages; bodies behind the pay wall are empty.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from datamodules.convert.records import DataSet, Record, label_of
from datamodules.pack import Skipped
from mmmask.errors import UserError

TextField = Literal["headline", "abstract", "caption", "body"]
WHOLE = ("nytimes_dataset_full.json", "nytimes_dataset.json")


def n24news(source: Path, text: TextField = "abstract") -> DataSet:
    """Fields: `jpg`, `txt` (the text field chosen), `cls` (the section; classes sorted by name)."""
    entries = {split: _entries(path) for split, path in _files(source).items()}
    sections = {entry.get("section") for split in entries.values() for entry in split}
    classes = sorted(section for section in sections if isinstance(section, str) and section)
    folder = next((source / name for name in ("imgs", "images") if (source / name).is_dir()), None)
    if folder is None:
        raise UserError(f"{source} has neither imgs/ nor images/: the pictures of N24News are missing.")
    return DataSet({split: _records(found, folder, text, classes) for split, found in entries.items()}, classes)


def _files(source: Path) -> dict[str, Path]:
    for folder in (source / "news", source):
        files = {split: folder / f"nytimes_{split}.json" for split in ("train", "dev", "test")}
        if all(path.is_file() for path in files.values()):
            return files
        for name in WHOLE:
            if (folder / name).is_file():
                return {"train": folder / name}
    raise UserError(f"{source} holds no nytimes_train.json, nytimes_dev.json, nytimes_test.json, nor {WHOLE[0]}.")


def _entries(path: Path) -> list[dict[str, Any]]:
    content = path.read_text(encoding="utf-8")
    if content.startswith("version https://git-lfs"):
        raise UserError(f"{path} is a git-LFS pointer, not the data. Fetch it with git lfs pull.")
    try:
        entries = json.loads(content)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{path} must hold a list of records.")
    return entries


def _records(
    entries: list[dict[str, Any]], folder: Path, text: TextField, classes: list[str]
) -> list[Record | Skipped]:
    numbers = {name: number for number, name in enumerate(classes)}
    records: list[Record | Skipped] = []
    for place, entry in enumerate(entries):
        identity, section = entry.get("image_id"), entry.get("section")
        words = " ".join(str(entry.get(text) or "").split())
        if not isinstance(identity, str) or not identity or "/" in identity:
            records.append(Skipped(f"record {place}", "no usable image_id"))
        elif section not in numbers:
            records.append(Skipped(identity, "no section"))
        elif not words:
            records.append(Skipped(identity, f"empty {text}"))
        else:
            fields = {"txt": words.encode(errors="replace"), "cls": label_of(numbers[section])}
            records.append(Record(identity.replace(".", "_"), folder / f"{identity}.jpg", fields))
    return records
