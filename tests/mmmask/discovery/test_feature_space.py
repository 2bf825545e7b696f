"""Contrast of any number of looks, against loops over the formula; samples without labels, looks that are absent."""

import math

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from mmmask.discovery import info_nce, supervised_contrast

LABELS = torch.tensor([0, 1, 0, 2, 1, 5])
LABELLED = torch.tensor([True, True, True, True, False, False])


def looks(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def some_absent(number, samples=6, share=0.3):
    return torch.rand(number, samples, generator=torch.Generator().manual_seed(1)) > share


def looped(vectors, together, temperature, present):
    """-mean over anchors, mean over positives, of log p; `together(a, b)` says which samples attract each other."""
    u = normalize(vectors, dim=-1)
    there = [(look, sample) for look in range(len(u)) for sample in range(u.shape[1]) if present[look, sample]]
    anchors = []
    for a in there:
        scores = {b: (u[a] @ u[b] / temperature).item() for b in there if b != a}
        positives = [b for b in scores if together(a[1], b[1])]
        if positives:
            total = math.log(sum(math.exp(score) for score in scores.values()))
            anchors.append(sum(total - scores[b] for b in positives) / len(positives))
    return sum(anchors) / len(anchors)


@pytest.mark.parametrize("number", [2, 3, 4])
def test_looks_at_one_sample_attract_each_other(number):
    vectors, present = looks(number, 6, 8), some_absent(number)
    expected = looped(vectors, lambda a, b: a == b, 0.5, present)
    assert info_nce(vectors, 0.5, present).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_labelled_looks_at_one_class_attract_each_other(number):
    vectors, present = looks(number, 6, 8), some_absent(number, share=0.2)
    expected = looped(vectors, lambda a, b: LABELS[a] == LABELS[b], 0.5, present & LABELLED)
    found = supervised_contrast(vectors, LABELS, LABELLED, 0.5, present)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_what_an_unlabelled_sample_is_said_to_be_does_not_matter():
    vectors = looks(2, 6, 8)
    other = torch.where(LABELLED, LABELS, -1)
    assert torch.equal(supervised_contrast(vectors, LABELS, LABELLED), supervised_contrast(vectors, other, LABELLED))


def test_a_batch_without_a_labelled_sample_is_exactly_zero_with_a_gradient():
    vectors = looks(2, 6, 8)
    loss = supervised_contrast(vectors, LABELS, torch.zeros(6, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert torch.equal(vectors.grad, torch.zeros_like(vectors))


@pytest.mark.parametrize("rubbish", [7.0, math.inf, math.nan])
def test_what_stands_where_a_look_is_absent_does_not_matter(rubbish):
    vectors, present = looks(4, 6, 8), some_absent(4)
    changed = torch.where(present[..., None], vectors.detach(), rubbish).requires_grad_()
    for loss in (
        lambda x: info_nce(x, 0.07, present),
        lambda x: supervised_contrast(x, LABELS, LABELLED, present=present),
    ):
        assert torch.equal(loss(vectors), loss(changed))
        (gradient,) = torch.autograd.grad(loss(changed), changed)
        assert gradient.isfinite().all()
        assert not gradient[~present].any()


def test_sets_are_contrasted_each_by_itself():
    vectors = looks(3, 2, 6, 8)
    assert_close(info_nce(vectors), torch.stack([info_nce(part) for part in vectors]).mean())


def test_similarities_keep_full_precision_in_mixed_training():
    vectors = looks(2, 6, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = info_nce(vectors, 0.07)
    assert torch.equal(mixed, info_nce(vectors, 0.07))
