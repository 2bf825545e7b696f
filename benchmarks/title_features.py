"""The titles of UPMC-Food-101, and their vectors."""

import csv
import gzip
import html

from mmmask.discovery.text_features import TextFeatures


def read_titles(path):
    """Titles and class names of a table of UPMC-Food-101 (file, title, class)."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.reader(lines) if len(row) == 3]
    return [html.unescape(row[1]) for row in rows], [row[2] for row in rows]


def title_vectors(titles, dim=256):
    """Rows `(N, dim)` of length 1: TF-IDF and a truncated SVD of it."""
    return TextFeatures.fit(titles, dim)(titles)
