"""The tables of a discovery: labels that come in, assignments and categories that go out."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mmmask.discovery.categories import Assigned, Category, Discovery
from mmmask.discovery.kmeans import UNLABELLED
from mmmask.discovery.protocol import Protocol
from mmmask.errors import UserError, nearest
from mmmask.files import written_whole

ASSIGNMENTS = ("key", "id", "category", "kind", "confidence", "second", "distance")


def read_labels(path: Path, keys: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """Places `(N,)` in the sorted names of categories, -1 where a key has none, and these names; of a table, or of a
    protocol (.json)."""
    if path.suffix == ".json":
        protocol = Protocol.read(path)
        protocol.check(keys, str(path))
        given = protocol.called()
    else:
        given = labels_of(path, keys)
    names = sorted(set(given.values()))
    number = {name: n for n, name in enumerate(names)}
    return np.array([number[given[key]] if key in given else UNLABELLED for key in keys], dtype=np.int64), names


def labels_of(path: Path, keys: Sequence[str]) -> dict[str, str]:
    """The category of each key that has one, by a table with the columns key and category."""
    place = set(keys)
    given: dict[str, tuple[str, int]] = {}
    for line, row in _rows(path, ("key", "category")):
        key, category = row["key"].strip(), row["category"].strip()
        if key in given:
            raise UserError(f"{path}, line {line}: '{key}' has a line already, {given[key][1]}: keep one of them.")
        given[key] = category, line
    strange = [(key, line) for key, (_, line) in given.items() if key not in place]
    if strange:
        key, line = strange[0]
        raise UserError(
            f"{path}: {len(strange)} keys are not in the data, the first is '{key}' in line {line}."
            f"{nearest(key, keys[:10_000])}"
        )
    return {key: category for key, (category, _) in given.items() if category}


def sure_members(path: Path, confidence: float) -> set[str]:
    """Keys that the assignments of a discovery put into known categories, so surely at least."""
    found = set()
    for line, row in _rows(path, ("key", "category", "kind", "confidence")):
        try:
            sure = float(row["confidence"]) >= confidence
        except ValueError as error:
            raise UserError(f"{path}, line {line}: the confidence is '{row['confidence']}' and no number.") from error
        if sure and row["kind"] == "known":
            found.add(row["key"].strip())
    return found


def _rows(path: Path, columns: Sequence[str]) -> Iterable[tuple[int, dict[str, str]]]:
    """(line, row) of a table that has these columns."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"there is no file {path}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}).") from error
    table = csv.DictReader(io.StringIO(text, newline=""))
    has = table.fieldnames or []
    for column in columns:
        if column not in has:
            told = ", ".join(has) or "nothing"
            raise UserError(f"{path} has no column '{column}'; its first line says: {told}.{nearest(column, has)}")
    for row in table:
        if any(row[column] is None for column in columns):
            raise UserError(f"{path}, line {table.line_num}: there are fewer columns than in the first line.")
        yield table.line_num, row


def read_members(folder: Path, discovery: Discovery) -> dict[str, int]:
    """The place of the category of each key that was assigned in a run."""
    place = {str(category.id): n for n, category in enumerate(discovery.categories)}
    path = folder / "assignments.csv"
    found = {row["key"]: place.get(row["id"], -1) for _, row in _rows(path, ("key", "id"))}
    if -1 in found.values():
        raise UserError(f"{path} names categories that {folder} does not have: it was changed. Discover again.")
    return found


def write_assignments(
    path: Path, keys: Sequence[str], assigned: Assigned, categories: Sequence[Category], threshold: float = 0.0
) -> list[str]:
    """One row per sample; the kind of each: known, new, unsure (below the `threshold`) or far. The last two have no
    category, the second column of names then begins with the nearest."""
    kinds = []
    rows = []
    for n, key in enumerate(keys):
        first, second = categories[assigned.category[n]], categories[assigned.second[n]]
        sure = "known" if first.known else "new"
        kind = "far" if assigned.far[n] else "unsure" if assigned.confidence[n] < threshold else sure
        kinds.append(kind)
        own = (first.id, first.name) if kind == sure else ("", "")
        other = second.name if kind == sure else first.name
        rows.append((key, *own, kind, f"{assigned.confidence[n]:.4f}", other, f"{assigned.distance[n]:.4f}"))
    write_table(path, ASSIGNMENTS, rows)
    return kinds


def write_categories(path: Path, categories: Sequence[Category]) -> None:
    """One row per category."""
    head = ("id", "name", "kind", "size", "confidence", "suggested", "examples")
    rows = [
        (c.id, c.name, "known" if c.known else "new", c.size, f"{c.confidence:.4f}", ", ".join(c.words),
         " ".join(c.examples[:5]))
        for c in categories
    ]  # fmt: skip
    write_table(path, head, rows)


def write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A .csv file, whole or not at all; None is an empty cell."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(head)
    table.writerows(rows)
    with written_whole(path) as stream:
        stream.write(text.getvalue().encode())
