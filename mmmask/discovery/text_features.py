"""Texts as vectors without any network: TF-IDF of their words and a truncated SVD of it, with scipy alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from mmmask.discovery.rows import to_unit

# Signs of these scripts belong to the letter before them, which \w does not know.
MARKS = "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0900-\u0dff\u0f00-\u109f\u1780-\u17ff"
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Thai, Khmer, kana, Han...
WORD = re.compile(rf"[{UNSPACED}]+|(?:(?![{UNSPACED}])[\w{MARKS}]){{2,}}")
RUN = re.compile(rf"[{UNSPACED}]")


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; where a script has no spaces, each two letters that are neighbours."""
    found: list[str] = []
    for word in WORD.findall(text.lower()):
        if RUN.match(word) and len(word) > 2:
            found += [a + b for a, b in pairwise(word)]
        else:
            found.append(word)
    return found


@dataclass(frozen=True)
class TextFeatures:
    """Words with their weights `(V,)` and the leading directions `(V, dim)` of what texts say with them."""

    words: Mapping[str, int]
    weights: NDArray[np.float32]
    basis: NDArray[np.float32]

    @classmethod
    def fit(cls, texts: Sequence[str], dim: int = 128, seed: int = 0, least: int = 2) -> TextFeatures:
        """Learned from texts; words in fewer than `least` of them are left out."""
        counted = [Counter(words_of(text)) for text in texts]
        frequency = Counter(word for words in counted for word in words)
        vocabulary = {word: n for n, word in enumerate(sorted(w for w, count in frequency.items() if count >= least))}
        texts_with = np.array([frequency[word] for word in vocabulary], dtype=np.float64)
        weights = (1 + np.log((1 + len(texts)) / (1 + texts_with))).astype(np.float32)
        if not vocabulary:
            return cls({}, weights, np.zeros((0, 1), dtype=np.float32))
        return cls(vocabulary, weights, directions(_weighed(counted, vocabulary, weights), dim, seed))

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Rows `(N, dim)` of length 1; 0 where a text has no word that is known."""
        counted = [Counter(words_of(text)) for text in texts]
        return to_unit(np.asarray(_weighed(counted, self.words, self.weights) @ self.basis, dtype=np.float32))


def _weighed(counted: Sequence[Counter[str]], words: Mapping[str, int], weights: NDArray[np.float32]) -> Any:
    """A sparse matrix `(texts, words)` with rows of length 1."""
    entries = [(row, words[w], n) for row, counts in enumerate(counted) for w, n in counts.items() if w in words]
    shape = len(counted), len(words)
    if not entries:
        return scipy.sparse.csr_matrix(shape, dtype=np.float32)
    rows, columns, counts = (np.array(part) for part in zip(*entries, strict=True))
    matrix = scipy.sparse.csr_matrix((counts * weights[columns].astype(np.float64), (rows, columns)), shape=shape)
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1)).ravel())
    return scipy.sparse.diags(1 / np.maximum(norms, 1e-12)) @ matrix


def directions(matrix: Any, dim: int, seed: int) -> NDArray[np.float32]:
    """The leading right singular vectors `(columns, dim)` of a matrix, by random projection (Halko et al. 2011)."""
    start = np.random.default_rng(seed).normal(size=(matrix.shape[1], dim + 32))
    basis = np.linalg.qr(matrix @ start)[0]
    for _ in range(4):
        basis = np.linalg.qr(matrix @ np.linalg.qr(matrix.T @ basis)[0])[0]
    found = np.linalg.svd((matrix.T @ basis).T, full_matrices=False)[2][:dim].T
    signs = np.sign(found[np.abs(found).argmax(0), np.arange(found.shape[1])])  # which LAPACK leaves open
    return np.ascontiguousarray(found * signs, dtype=np.float32)
