"""Who teaches whom, labels, and the use of all classes: known values, absent looks, extreme logits."""

import math

import pytest
import torch
from torch.testing import assert_close

from mmmask.discovery import classification, distillation, teacher_temperature, unevenness

VIEWS = ~torch.eye(2, dtype=torch.bool)
LABELS = torch.tensor([2, 0, 1, 3])
LABELLED = torch.tensor([True, True, False, False])


def cosines(*shape, seed=0):
    numbers = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return numbers.requires_grad_()


def test_a_view_learns_from_the_other_and_teaches_without_learning():
    logits = cosines(2, 4, 5)
    only_first_teaches = torch.tensor([[False, True], [False, False]])
    loss = distillation(logits, logits, only_first_teaches, 0.05)
    expected = -((logits[0] / 0.05).softmax(-1) * (logits[1] / 0.1).log_softmax(-1)).sum(-1).mean()
    assert_close(loss, expected)
    loss.backward()
    assert not logits.grad[0].any()
    assert logits.grad[1].any()


def test_only_what_both_have_is_taught():
    logits, present = cosines(2, 4, 5), torch.tensor([[True, True, True, False], [True, False, True, True]])
    loss = distillation(logits, logits, VIEWS, 0.05, present, present)
    both = [0, 2]
    assert_close(loss, distillation(logits[:, both], logits[:, both], VIEWS, 0.05))
    rubbish = torch.where(present[..., None], logits.detach(), math.nan).requires_grad_()
    again = distillation(rubbish, rubbish, VIEWS, 0.05, present, present)
    again.backward()
    assert torch.equal(again, loss)
    assert rubbish.grad.isfinite().all()


def test_teachers_grow_sure_during_the_warm_up():
    assert teacher_temperature(0, 30) == 0.07
    assert teacher_temperature(29, 30) == pytest.approx(0.04)
    assert teacher_temperature(100, 30) == pytest.approx(0.04)
    assert teacher_temperature(14.5, 30) == pytest.approx(0.055)
    assert teacher_temperature(0, 0) == pytest.approx(0.04)
    assert teacher_temperature(0, 1) == 0.07


def test_labelled_looks_follow_their_labels():
    logits = cosines(2, 4, 5)
    log_p = (logits / 0.1).log_softmax(-1)
    expected = -(log_p[:, 0, 2] + log_p[:, 1, 0]).sum() / 4
    assert_close(classification(logits, LABELS, LABELLED), expected)
    nonsense = torch.where(LABELLED, LABELS, 10_000)
    assert_close(classification(logits, nonsense, LABELLED), expected)
    present = torch.tensor([[True, True, True, True], [False, True, True, True]])
    rubbish = torch.where(present[..., None], logits.detach(), math.nan).requires_grad_()
    loss = classification(rubbish, LABELS, LABELLED, present)
    loss.backward()
    assert_close(loss, -(log_p[0, 0, 2] + log_p[:, 1, 0].sum()) / 3)
    assert rubbish.grad.isfinite().all()


def test_without_a_labelled_sample_the_loss_is_exactly_zero_with_a_gradient():
    logits = cosines(2, 4, 5)
    loss = classification(logits, LABELS, torch.zeros(4, dtype=torch.bool))
    loss.backward()
    assert loss == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_unevenness_is_zero_if_all_classes_are_used_alike_and_log_k_if_one_is():
    assert unevenness(10 * torch.eye(5)).item() == pytest.approx(0, abs=1e-6)
    one = torch.zeros(6, 5)
    one[:, 2] = 100
    assert unevenness(one).item() == pytest.approx(math.log(5))


def test_unevenness_has_a_finite_gradient_where_no_row_believes_in_a_class():
    logits = torch.zeros(6, 5)
    logits[:, 2] = 1000  # the probability of all others is 0 in float32
    logits.requires_grad_()
    unevenness(logits).backward()
    assert logits.grad.isfinite().all()


def test_unevenness_is_of_the_rows_that_are_there_and_a_mean_over_sets_that_have_any():
    logits, present = cosines(2, 4, 5), torch.tensor([[True, False, True, True], [False] * 4])
    expected = unevenness(logits[0, [0, 2, 3]])
    assert_close(unevenness(logits, present), expected)
    assert_close(unevenness(logits), (unevenness(logits[0]) + unevenness(logits[1])) / 2)
    nothing = unevenness(logits, torch.zeros(2, 4, dtype=torch.bool))
    nothing.backward()
    assert nothing == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))
