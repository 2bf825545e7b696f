"""Texts as vectors: what is said with the same words is near, in any script."""

import numpy as np
import pytest

from mmmask.discovery.text_features import TextFeatures, words_of

TEXTS = ["red shoe", "red leather shoe", "blue shoe", "green tea", "black tea", "green tea with milk"] * 3


def test_texts_with_the_same_words_are_near():
    rows = TextFeatures.fit(TEXTS, dim=4)(TEXTS)
    similar = rows @ rows.T
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    assert similar[0, 1] > 0.8 > 0.3 > similar[0, 3]


def test_new_texts_are_placed_among_the_old_and_unknown_words_count_nothing():
    features = TextFeatures.fit(TEXTS, dim=4)
    np.testing.assert_allclose(features(["RED, shoe!"]), features(TEXTS[:1]), atol=1e-6)
    np.testing.assert_allclose(features(["red zebra shoe"]), features(TEXTS[:1]), atol=1e-6)
    assert not features(["", "zebra"]).any()


def test_rows_are_the_leading_singular_vectors_of_tf_idf():
    full = TextFeatures.fit(TEXTS, dim=50)(TEXTS)
    weights = {}
    for text in TEXTS:
        for word in set(text.split()):
            weights[word] = weights.get(word, 0) + 1
    words = sorted(weights)
    idf = np.array([1 + np.log((1 + len(TEXTS)) / (1 + weights[w])) for w in words])
    plain = np.array([[text.split().count(w) for w in words] for text in TEXTS]) * idf
    plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(full @ full.T, plain @ plain.T, atol=1e-5)  # nothing is cut off


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Émile's T-shirt 42", ["émile", "shirt", "42"]),
        ("हिन्दी किताब", ["हिन्दी", "किताब"]),
        ("Красная обувь", ["красная", "обувь"]),
        ("红色运动鞋", ["红色", "色运", "运动", "动鞋"]),
        ("猫 t恤", ["猫", "恤"]),
        ("حذاءٌ أحمر", ["حذاءٌ", "أحمر"]),
        ("", []),
    ],
)
def test_words_of_many_scripts(text, words):
    assert words_of(text) == words
