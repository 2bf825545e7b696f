"""Spans: nothing is lost or doubled, budgets hold, answers begin with a sentinel."""

import numpy as np
import pytest

from mmmask.draws import Draws
from mmmask.masking.spans import spans

SENTINELS = np.arange(900, 999)


def drawn(most_known=99, most_answered=99, share=0.5, seed=0, chunks=None, count=200):
    rng = np.random.default_rng(seed)
    length = rng.integers(1, 13, count)
    ids = np.where(np.arange(12) < length[:, None], np.arange(count * 12).reshape(count, 12) + 1000, 0)
    full = [np.full(count, number) for number in (most_known, most_answered)]
    return ids, length, spans(ids, length, np.full(count, share), *full, SENTINELS, Draws(np.arange(count)), 0, chunks)


def rows(padded, length):
    return [row[:n].tolist() for row, n in zip(padded, length, strict=True)]


def filled_in(known, answer):
    """What one gets by putting the spans of an answer where the sentinels stand."""
    pieces, name = {}, None
    for word in answer:
        if word < 1000:
            name = word
            pieces[name] = []
        else:
            pieces[name].append(word)
    return [other for word in known for other in (pieces[word] if word < 1000 else [word])]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("chunks", [None, np.arange(12) // 3 + np.zeros((200, 1), dtype=np.int64)])
def test_the_answer_fills_what_is_left_out(share, chunks):
    ids, length, found = drawn(share=share, chunks=chunks)
    for sample, known, answer in zip(
        rows(ids, length), rows(found.known, found.known_length), rows(found.answer, found.answer_length), strict=True
    ):
        assert filled_in(known, answer) == sample
        sentinels = [word for word in answer if word < 1000]
        assert sentinels == list(range(900, 900 + len(sentinels)))  # in order, and one at the end
        assert answer[-1] < 1000
        assert [word for word in known if word < 1000] == sentinels[:-1]
        if chunks is not None:  # all of a chunk or nothing
            kept = [word in known for word in sample]
            assert all(len(set(kept[i : i + 3])) == 1 for i in range(0, len(kept), 3))


def test_a_share_is_kept():
    _, length, found = drawn(share=0.3, count=5000)
    kept = sum(word >= 1000 for row in rows(found.known, found.known_length) for word in row)
    assert kept / length.sum() == pytest.approx(0.3, abs=0.01)


def test_where_nothing_may_be_known_all_is_asked():
    ids, length, found = drawn(most_known=0)
    assert not found.known_length.any()
    assert rows(found.answer, found.answer_length) == [[900, *sample, 901] for sample in rows(ids, length)]


@pytest.mark.parametrize("most", [1, 2, 5])
def test_what_is_known_fits(most):
    _, _, found = drawn(most_known=most, share=0.9)
    assert found.known_length.max() == most
    assert found.known_length.min() >= 1


@pytest.mark.parametrize("most", [0, 1, 3, 6])
def test_a_long_answer_begins_at_a_sentinel_and_fits(most):
    _, _, whole = drawn(share=0.6)
    _, _, found = drawn(most_answered=most, share=0.6)
    beginnings = set()
    for long, short in zip(
        rows(whole.answer, whole.answer_length), rows(found.answer, found.answer_length), strict=True
    ):
        assert len(short) <= most
        if len(long) <= most:
            assert short == long
        elif most:
            assert short[0] < 1000
            begin = long.index(short[0])
            assert short == long[begin : begin + len(short)]
            assert len(short) == most or short[-1] == long[-1]  # no budget is wasted but at the end
            beginnings.add(begin > 0)
    if most == 3:
        assert beginnings == {True, False}
