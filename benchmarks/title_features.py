"""Titles as vectors: TF-IDF and a truncated SVD of it, with scipy alone."""

import csv
import gzip
import html
import re
from collections import Counter

import numpy as np
import scipy.sparse

WORD = re.compile(r"\b\w\w+\b")


def read_titles(path):
    """Titles and class names of a table of UPMC-Food-101 (file, title, class)."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.reader(lines) if len(row) == 3]
    return [html.unescape(row[1]) for row in rows], [row[2] for row in rows]


def tf_idf(texts, least=2):
    """A sparse matrix `(texts, words)` with rows of length 1; words in fewer than `least` texts are left out."""
    counted = [Counter(WORD.findall(text.lower())) for text in texts]
    frequency = Counter(word for words in counted for word in words)
    vocabulary = {word: n for n, word in enumerate(sorted(w for w, count in frequency.items() if count >= least))}
    entries = [
        (row, vocabulary[w], n) for row, words in enumerate(counted) for w, n in words.items() if w in vocabulary
    ]
    rows, columns, counts = (np.array(part) for part in zip(*entries, strict=True))
    idf = 1 + np.log((1 + len(texts)) / (1 + np.bincount(columns, minlength=len(vocabulary))))
    matrix = scipy.sparse.csr_matrix((counts * idf[columns], (rows, columns)), shape=(len(texts), len(vocabulary)))
    norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(1)).ravel())
    return scipy.sparse.diags(1 / np.maximum(norms, 1e-12)) @ matrix


def reduced(matrix, dim=256, seed=0):
    """Rows `(N, dim)` of length 1: the leading singular vectors times their values (Halko et al. 2011)."""
    start = np.random.default_rng(seed).normal(size=(matrix.shape[1], dim + 32))
    basis = np.linalg.qr(matrix @ start)[0]
    for _ in range(4):
        basis = np.linalg.qr(matrix @ np.linalg.qr(matrix.T @ basis)[0])[0]
    left, values, _ = np.linalg.svd((matrix.T @ basis).T, full_matrices=False)
    rows = (basis @ left[:, :dim] * values[:dim]).astype(np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
