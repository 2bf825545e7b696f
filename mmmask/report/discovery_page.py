"""One HTML file of a discovery that needs no server, no network and no other file."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from mmmask.discovery.categories import Discovery

SCRIPTS = ("page.js", "map.js", "charts.js")
LONGEST = 160  # letters of a text that are shown
CONFUSED = 15  # rows of the table of confusions


def discovery_page(
    discovery: Discovery,
    curves: dict[str, Any],
    texts: dict[str, str],
    pictures: dict[str, str],
    points: list[tuple[float, float, int, str]],
) -> str:
    """The page; by key `texts` and `pictures` (data: URLs), `points` as (x, y, place of the category, key)."""
    told = discovery.made_from
    known = sum(category.known for category in discovery.categories)
    confusion = _counted(discovery, curves.get("confusion", []))
    data = {
        "summary": f"{told['samples']:,} samples, {told['labelled']:,} of them labelled; {len(discovery.categories)} "
        f"categories: {known} known, {len(discovery.categories) - known} new. Names of new ones are suggestions: the "
        "words that set their texts apart.",
        "categories": [asdict(category) for category in discovery.categories],
        "texts": {key: text if len(text) <= LONGEST else text[: LONGEST - 1] + "…" for key, text in texts.items()},
        "pictures": pictures,
        "curves": {"classes": curves.get("classes")},
        "calibration": asdict(discovery.calibration),
        "confusion": _confused(discovery, *confusion),
        "matrix": _matrix(discovery, *confusion),
        "map": {
            "points": [(round(x, 4), round(y, 4), place, key) for x, y, place, key in points],
            "note": f"{len(points):,} of {told['samples']:,} samples by t-SNE: discs are known categories, rings new "
            "ones. Point at one to see it, click to open its category. Near is alike; far says little.",
        },
    }
    room = files("mmmask.report") / "page"
    read = {name: (room / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", *SCRIPTS)}
    return (
        read["page.html"]
        .replace("/*STYLE*/", read["page.css"])
        .replace("/*SCRIPT*/", "\n".join(read[name] for name in SCRIPTS))
        .replace("/*DATA*/", _as_script(data))
    )


def _as_script(data: Any) -> str:
    """JSON that no browser takes for markup, whatever is in it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


Counts = dict[tuple[int, int], int]  # of samples labelled as one id that were found in another; -1 is any new category


def _counted(discovery: Discovery, confusion: list[list[int]]) -> tuple[Counts, dict[int, int]]:
    """Of the categories that there still are, and how many samples are labelled as each."""
    there = {category.id for category in discovery.categories} | {-1}
    found: Counts = {}
    whole: dict[int, int] = {}
    for given, taken, count in confusion:
        whole[given] = whole.get(given, 0) + count
        if given in there and taken in there:
            found[given, taken] = found.get((given, taken), 0) + count
    return found, whole


def _confused(discovery: Discovery, confusion: Counts, whole: dict[int, int]) -> list[tuple[str, str, int, int]]:
    """(labelled, found in, samples, of how many), most samples first."""
    names = _names(discovery)
    wrong = [item for item in confusion.items() if item[0][0] != item[0][1]]
    top = sorted(wrong, key=lambda item: (-item[1], item[0]))[:CONFUSED]
    return [(names[given], names[taken], count, whole[given]) for (given, taken), count in top]


def _matrix(discovery: Discovery, confusion: Counts, whole: dict[int, int]) -> dict[str, Any]:
    """The names of rows and columns, and (row, column, samples, of how many): each row is a labelled category."""
    names = _names(discovery)
    columns = [*sorted({given for given, _ in confusion} | {taken for _, taken in confusion if taken >= 0}), -1]
    place = {id: n for n, id in enumerate(columns)}
    cells = [(place[given], place[taken], count, whole[given]) for (given, taken), count in sorted(confusion.items())]
    return {"names": [names[id] for id in columns], "cells": cells}


def _names(discovery: Discovery) -> dict[int, str]:
    return {category.id: category.name for category in discovery.categories} | {-1: "(a new category)"}
