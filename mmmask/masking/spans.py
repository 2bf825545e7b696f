"""Spans of sequences that are left out: each leaves a sentinel, which the answer names before it fills in (T5, 4M)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmmask.draws import Draws

Ids = NDArray[np.int64]


class Spans(NamedTuple):
    """Padded by zeros: what is known of each sequence `(B, K)` and how long that is, the answer `(B, A)` and its
    length."""

    known: Ids
    known_length: Ids
    answer: Ids
    answer_length: Ids


def spans(
    ids: Ids,
    length: Ids,
    share: NDArray[np.float64],
    most_known: Ids,
    most_answered: Ids,
    sentinels: Ids,
    draws: Draws,
    use: int = 0,
    chunks: Ids | None = None,
) -> Spans:
    """Each token of a sequence `(B, L)` is kept with the probability `share` `(B,)`, which is lowered by a tenth, with
    new draws, until what is known fits `most_known` `(B,)`. With `most_known` 0, nothing is known, not even that
    there is a sequence.

    An answer longer than `most_answered` begins at a random sentinel and is cut, or at the earliest from which all
    fits. `chunks` `(B, L)` are kept or left out as a whole: tokens of a chunk have the same number.
    """
    here = np.arange(ids.shape[1]) < length[:, None]
    keep, share, tries = _kept(here, share, draws, (use, 1), chunks) & (most_known > 0)[:, None], share.copy(), 1
    while len(over := np.nonzero((_known_length(keep, here) > most_known) & (most_known > 0))[0]):
        share[over], tries = share[over] * 0.9, tries + 1
        keep[over] = _kept(
            here[over], share[over], draws.of(over), (use, tries), None if chunks is None else chunks[over]
        )
    out = here & ~keep
    begins = _begins(out)
    number = begins.cumsum(1)  # of the span that a token lies in
    stays = (keep & here | begins) & (most_known > 0)[:, None]
    words = np.where(begins, sentinels[np.maximum(number - 1, 0)], ids)
    known = _packed(words, stays)
    left_out, count = out.sum(1), number[:, -1]
    answer = np.zeros((len(ids), 2 * ids.shape[1] + 2), dtype=ids.dtype)
    before = out.cumsum(1) - out
    nowhere = answer.shape[1] - 1
    np.put_along_axis(answer, np.where(out, before + number, nowhere), ids, 1)
    np.put_along_axis(answer, np.where(begins, before + number - 1, nowhere), sentinels[np.maximum(number - 1, 0)], 1)
    answer[:, nowhere] = 0
    np.put_along_axis(answer, (left_out + count)[:, None], sentinels[count][:, None], 1)
    starts = np.where(begins, before + number - 1, nowhere)  # of the spans, in the answer
    return Spans(
        known, stays.sum(1), *_cut(answer, left_out + count + 1, starts, count, most_answered, draws.uniform((use, 0)))
    )


def _kept(
    here: NDArray[np.bool_], share: NDArray[np.float64], draws: Draws, use: tuple[int, int], chunks: Ids | None
) -> NDArray[np.bool_]:
    luck = draws.uniform(use, here.shape[1])
    if chunks is not None:
        luck = np.take_along_axis(luck, chunks, 1)
    return here & (luck <= share[:, None])


def _known_length(keep: NDArray[np.bool_], here: NDArray[np.bool_]) -> Ids:
    return (keep | _begins(here & ~keep)).sum(1)


def _begins(out: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where runs of what is left out begin."""
    begins = out.copy()
    begins[:, 1:] &= ~out[:, :-1]
    return begins


def _packed(words: Ids, stays: NDArray[np.bool_]) -> Ids:
    """Those that stay, side by side; zeros after them."""
    order = np.argsort(~stays, axis=1, kind="stable")
    return np.take_along_axis(np.where(stays, words, 0), order, 1)


def _cut(answer: Ids, length: Ids, starts: Ids, count: Ids, most: Ids, luck: NDArray[np.float64]) -> tuple[Ids, Ids]:
    """Answers that begin where they may, not longer than `most` `(B,)`; and their lengths."""
    rows = np.arange(len(answer))
    ends = np.concatenate([np.sort(starts, 1), np.zeros((len(answer), 1), dtype=starts.dtype)], 1)
    ends[rows, count] = length - 1  # the last sentinel says that this was all
    chosen = ends[rows, (luck * np.maximum(count, 1)).astype(np.int64)]
    fits = np.where(np.arange(ends.shape[1]) <= count[:, None], length[:, None] - ends <= most[:, None], False)
    earliest = np.where(fits.any(1), ends[rows, fits.argmax(1)], length)
    begin = np.where(length <= most, 0, np.where(length - chosen >= most, chosen, earliest))
    length = np.minimum(length - begin, most)
    columns = np.minimum(begin[:, None] + np.arange(answer.shape[1]), answer.shape[1] - 1)
    cut = np.take_along_axis(answer, columns, 1)
    return np.where(np.arange(answer.shape[1]) < length[:, None], cut, 0), length
