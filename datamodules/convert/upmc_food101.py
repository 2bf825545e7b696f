"""UPMC-Food-101: pictures and the titles of the web pages they came from.

`images/{train,test}/<class>/<class>_<n>.jpg` and `texts/{train,test}_titles.csv` (file, title, class; usually
without a header). The titles carry the noise of the crawl: HTML entities, bytes written as `\\xc3\\xa7`, and
Python lists written as text.
"""

from __future__ import annotations

import csv
import html
import re
from pathlib import Path

from datamodules.convert.records import PICTURES, DataSet, Record, key_of, label_of, need
from datamodules.pack import Skipped
from mmmask.errors import UserError

BYTES = re.compile(r"(?:\\x[0-9a-fA-F]{2})+")
ESCAPES = {"\\t": " ", "\\r": " ", "\\n": " ", "\\'": "'", '\\"': '"'}


def upmc_food101(source: Path) -> DataSet:
    """Fields: `jpg`, `txt` (the title, cleaned), `cls`."""
    inner = [folder.parent for folder in (source / "texts", *sorted(source.glob("*/texts"))) if folder.is_dir()]
    if not inner:
        raise UserError(f"{source} is no UPMC-Food-101: there is no folder texts/ in it or one level below.")
    rows = {split: _rows(inner[0] / "texts" / f"{split}_titles.csv") for split in ("train", "test")}
    classes = sorted({row[2] for split in rows.values() for row in split if len(row) == 3})
    return DataSet({split: _records(inner[0], split, rows[split], classes) for split in rows}, classes)


def _rows(path: Path) -> list[list[str]]:
    with open(need(path, "UPMC-Food-101 has one file of titles for each split"), newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    has_header = bool(rows) and not rows[0][0].lower().endswith(PICTURES)
    return rows[1:] if has_header else rows


def _records(source: Path, split: str, rows: list[list[str]], classes: list[str]) -> list[Record | Skipped]:
    numbers = {name: number for number, name in enumerate(classes)}
    records: list[Record | Skipped] = []
    listed = set()
    for row in rows:
        if len(row) != 3:
            records.append(Skipped(row[0] if row else "empty line", f"row of {len(row)} columns, expected 3"))
            continue
        name, title, folder = row
        listed.add(name)
        if text := clean_title(title):
            fields = {"txt": text.encode(), "cls": label_of(numbers[folder])}
            records.append(Record(key_of(f"{folder}/{name}"), source / "images" / split / folder / name, fields))
        else:
            records.append(Skipped(name, "empty title"))
    for path in sorted((source / "images" / split).glob("*/*")):
        if path.name not in listed and path.suffix.lower() in PICTURES:
            records.append(Skipped(path.name, "picture without a title"))
    return records


def clean_title(title: str) -> str:
    """A title as a person would read it on the page."""
    text = BYTES.sub(_decode, title)
    for written, meant in ESCAPES.items():
        text = text.replace(written, meant)
    text = html.unescape(html.unescape(text))  # some were escaped twice
    text = text.strip().removeprefix('[["').removesuffix('"]]')
    return " ".join(text.split())


def _decode(match: re.Match[str]) -> str:
    content = bytes.fromhex(match[0].replace("\\x", ""))
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")
