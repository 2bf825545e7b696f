"""Any table of samples: CSV, TSV, JSON lines, a JSON list, or Parquet."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datamodules.convert.records import DataSet, Record, label_of, need
from datamodules.pack import Skipped
from mmmask.errors import UserError, nearest

Row = dict[str, Any]


@dataclass(frozen=True)
class Columns:
    """Which column holds what."""

    image: str | None = None
    text: str | None = None
    label: str | None = None
    key: str | None = None
    split: str | None = None


def table(source: Path, columns: Columns, images: Path | None = None) -> DataSet:
    """Fields: the picture, `txt`, `cls`, as far as their columns are named. Pictures' paths start at `images`."""
    if columns.image is None and columns.text is None:
        raise UserError("name at least one column: --image COLUMN or --text COLUMN.")
    rows = read_rows(need(source, "give a .csv, .tsv, .jsonl, .json or .parquet file"))
    _know(source, rows, columns)
    classes = _classes(rows, columns.label) if columns.label else []
    numbers = {name: number for number, name in enumerate(classes)}
    splits: dict[str, list[Record | Skipped]] = {}
    for place, row in enumerate(rows):
        for column in (columns.split, columns.key):
            if column and row[column] in (None, ""):
                raise UserError(f"{source}: row {place} has nothing in the column '{column}'.")
        split = str(row[columns.split]) if columns.split else "train"
        if not split or "/" in split or split.startswith("."):
            raise UserError(f"{source}: row {place} has the split '{split}', which cannot be part of a file name.")
        splits.setdefault(split, []).append(_record(place, row, columns, images or source.parent, numbers))
    return DataSet(splits, classes)


def _record(place: int, row: Row, columns: Columns, folder: Path, numbers: dict[str, int]) -> Record | Skipped:
    key = str(row[columns.key]).replace(".", "_") if columns.key else f"{place:08d}"
    fields: dict[str, bytes] = {}
    if columns.text:
        text = " ".join(str(row[columns.text] or "").split())
        if not text:
            return Skipped(key, f"empty '{columns.text}'")
        fields["txt"] = text.encode(errors="replace")
    if columns.label and row[columns.label] not in (None, ""):
        fields["cls"] = label_of(numbers[str(row[columns.label]).strip()])
    if not columns.image:
        return Record(key, None, fields)
    if not row[columns.image]:
        return Skipped(key, f"empty '{columns.image}'")
    return Record(key, folder / str(row[columns.image]), fields)


def read_rows(path: Path) -> list[Row]:
    """All rows of a table, as dicts."""
    kind = path.suffix.lower()
    try:
        if kind in (".csv", ".tsv"):
            with open(path, newline="", encoding="utf-8-sig") as file:
                return list(csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ","))
        if kind == ".jsonl":
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if kind == ".json":
            rows = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(rows, list):
                raise UserError(f"{path} must hold a list of records.")
            return rows
        if kind == ".parquet":
            return _parquet(path)
    except (csv.Error, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as {kind[1:]}: {error}.") from error
    raise UserError(f"{path}: a table is a .csv, .tsv, .jsonl, .json or .parquet file.")


def _parquet(path: Path) -> list[Row]:
    try:
        from pyarrow import ArrowInvalid, parquet
    except ImportError:
        raise UserError("reading Parquet needs pyarrow: pip install 'mmmask[parquet]'.") from None
    try:
        return parquet.read_table(path).to_pylist()
    except ArrowInvalid as error:
        raise UserError(f"{path} cannot be read as parquet: {error}.") from error


def _know(source: Path, rows: list[Row], columns: Columns) -> None:
    """Refuse a column that the table does not have."""
    if not rows:
        raise UserError(f"{source} has no rows.")
    for place, row in enumerate(rows):
        if not isinstance(row, dict):
            raise UserError(f"{source}: row {place} is not a record.")
        for option, column in asdict(columns).items():
            if column is not None and column not in row:
                there = ", ".join(str(name) for name in row)
                raise UserError(
                    f"{source}: row {place} has no column '{column}' (--{option}); it has: {there}."
                    + nearest(column, row)
                )


def _classes(rows: list[Row], label: str) -> list[str]:
    """The names of the classes, sorted; whole numbers from 0 on are labels already and stay as they are."""
    names = {str(row[label]).strip() for row in rows if row[label] not in (None, "")}
    whole = all(name.isascii() and name.isdigit() and str(int(name)) == name for name in names)
    if whole and max(map(int, names), default=0) < 10 * len(rows):
        return [str(number) for number in range(max(map(int, names), default=-1) + 1)]
    return sorted(names)
