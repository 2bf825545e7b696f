"""Names for categories from the texts of their members: class-based TF-IDF."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mmmask.discovery.text_features import words_of

LEAST = 0.1  # share of the members that have a term: a rarer one names some of them, not the category
PAIR = 1.3  # a pair of neighbouring words says more than one of them


def suggested_names(texts: Sequence[str], members: NDArray[np.int64], count: int, words: int = 3) -> list[list[str]]:
    """For each of `count` categories the terms that set the texts of its members `(N,)` apart from all others, most
    telling first; none where no text has words. A term is a word or two neighbours, counted once a text."""
    inside = [Counter[str]() for _ in range(count)]
    for text, category in zip(texts, members.tolist(), strict=True):
        inside[category].update(_terms(text))
    everywhere: Counter[str] = sum(inside, Counter())
    sizes = np.maximum(np.bincount(members, minlength=count), 1)
    average = sum(everywhere.values()) / max(1, count)
    return [
        _best(terms, everywhere, max(2, LEAST * size), average, words)
        for terms, size in zip(inside, sizes.tolist(), strict=True)
    ]


def _best(terms: Counter[str], everywhere: Counter[str], least: float, average: float, words: int) -> list[str]:
    """c-TF-IDF (Grootendorst 2022): how often here, times the logarithm of how rare in general."""
    scores = {
        term: found * np.log1p(average / everywhere[term]) * (found / everywhere[term]) ** 0.5 * PAIR ** (" " in term)
        for term, found in terms.items()
        if found >= min(least, max(terms.values()))
    }
    chosen: list[str] = []
    for term in sorted(scores, key=lambda term: (-scores[term], term)):
        if len(chosen) == words:
            break
        if not {word for one in chosen for word in one.split()} & set(term.split()):
            chosen.append(term)
    return chosen


def _terms(text: str) -> set[str]:
    words = [word for word in words_of(text) if not word.isdigit()]
    return {*words, *(f"{a} {b}" for a, b in pairwise(words) if a != b)}
