"""The titles of UPMC-Food-101, and their vectors."""

import csv
import gzip
import html
import re

from mmmask.discovery.text_features import TextFeatures


def read_titles(path):
    """Titles and class names of a table of UPMC-Food-101 (file, title, class)."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.reader(lines) if len(row) == 3]
    return [html.unescape(row[1]) for row in rows], [row[2] for row in rows]


def without_class(title, name):
    """The title without the words of its class, `cup_cakes`, with an s at the end or without; nor are they in one."""
    hidden = {singular(word) for word in (*name.split("_"), name.replace("_", ""))}
    return re.sub(r"[^\W_]+", lambda found: "" if singular(found[0].lower()) in hidden else found[0], title)


def singular(word):
    return word.removesuffix("s")


def title_vectors(titles, dim=256):
    """Rows `(N, dim)` of length 1: TF-IDF and a truncated SVD of it."""
    return TextFeatures.fit(titles, dim)(titles)
