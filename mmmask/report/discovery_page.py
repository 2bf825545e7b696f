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
    data = {
        "summary": f"{told['samples']:,} samples, {told['labelled']:,} of them labelled; {len(discovery.categories)} "
        f"categories: {known} known, {len(discovery.categories) - known} new. Names of new ones are suggestions: the "
        "words that set their texts apart.",
        "categories": [asdict(category) for category in discovery.categories],
        "texts": {key: text if len(text) <= LONGEST else text[: LONGEST - 1] + "…" for key, text in texts.items()},
        "pictures": pictures,
        "curves": {"classes": curves.get("classes")},
        "calibration": asdict(discovery.calibration),
        "confusion": _confused(discovery, curves.get("confusion", [])),
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


def _confused(discovery: Discovery, confusion: list[list[int]]) -> list[tuple[str, str, int, int]]:
    """(labelled, found in, samples, of how many), most samples first; -1 is any new category."""
    names = {category.id: category.name for category in discovery.categories} | {-1: "(a new category)"}
    whole: dict[int, int] = {}
    for given, _, count in confusion:
        whole[given] = whole.get(given, 0) + count
    wrong = [row for row in confusion if row[0] != row[1] and row[0] in names and row[1] in names]
    merged: dict[tuple[int, int], int] = {}
    for given, taken, count in wrong:
        merged[given, taken] = merged.get((given, taken), 0) + count
    top = sorted(merged.items(), key=lambda item: (-item[1], item[0]))[:CONFUSED]
    return [(names[given], names[taken], count, whole[given]) for (given, taken), count in top]
