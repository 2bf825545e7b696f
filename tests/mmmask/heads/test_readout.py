"""Heads answer from valid tokens alone, and count errors only where there is a target."""

import math

import pytest
import torch

from mmmask.errors import UserError
from mmmask.heads import ClassHead, DepthHead, SegmentationHead

MAP = {"of": "grid", "size": 8, "width": 8, "depth": 1, "fine": 2}


def features(count=3, length=16, dim=8):
    return torch.randn(count, length, dim, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("pool", ["mean", "attention"])
def test_padding_changes_no_class(pool):
    head, x = ClassHead(8, 5, pool=pool), features()
    valid = torch.arange(16).expand(3, -1) < torch.tensor([[16], [4], [0]])
    changed = torch.where(valid[..., None], x, 100.0)
    assert torch.equal(head(x, valid), head(changed, valid))
    assert head(x, valid).isfinite().all()  # also of the sample that has nothing
    torch.testing.assert_close(head(x, valid)[1:2], head(x[1:2, :4], valid[1:2, :4]))
    assert not torch.allclose(head(x, valid)[0], head(x[:1, :8], valid[:1, :8])[0])


def test_samples_without_a_class_count_nowhere():
    head = ClassHead(8, 3, label_smoothing=0.1)
    answers, wanted = torch.randn(4, 3), torch.tensor([0, -1, 2, -1])
    total, count = head.eval().loss(answers, wanted)
    assert count == 2
    assert total == pytest.approx(-float(answers.log_softmax(1)[[0, 2], [0, 2]].sum()), rel=1e-5)
    assert head.train().loss(answers, wanted)[0] != total  # smoothing is for training
    accuracy = head.metrics()["accuracy"]
    accuracy.update(torch.tensor([[9.0, 0, 0], [0, 9, 0], [9, 0, 0], [0, 9, 0]]), wanted)
    assert accuracy.compute() == 0.5


def test_a_map_is_made_of_tokens_in_their_places():
    head, x = SegmentationHead(8, 4, **MAP), features()
    assert head(x, x[..., 0] > 9).shape == (3, 4, 8, 8)
    changed = x.clone()
    changed[:, 0] *= -1  # the token in the upper left corner
    head = SegmentationHead(8, 4, **{**MAP, "depth": 0})
    moved = (head(changed, x[..., 0] > 9) - head(x, x[..., 0] > 9)).abs().amax((0, 1)) > 1e-6
    assert moved[:2, :2].all()
    assert not moved[3:, 3:].any()


def test_pixels_without_a_target_count_nowhere():
    segments, depth = SegmentationHead(8, 4, **MAP), DepthHead(8, **MAP)
    raw = torch.full((1, 1, 8, 8), 255, dtype=torch.uint8)
    raw[..., :4] = 2
    wanted = segments.wanted(raw)
    perfect = torch.nn.functional.one_hot(wanted.clamp(min=0), 4).movedim(-1, 1) * 20.0
    assert segments.loss(perfect, wanted)[0] < 1e-3
    assert segments.loss(perfect, wanted)[1] == 32
    miou = segments.metrics()["miou"]
    miou.update(perfect, wanted)
    assert miou.compute() == 1
    far = depth.wanted(torch.tensor([[[[0.25] * 8] * 4 + [[math.nan] * 8] * 2 + [[math.inf] * 8] * 2]]))
    total, count = depth.loss(torch.zeros(1, 8, 8), far)
    assert (float(total), int(count)) == (8.0, 32)
    error = depth.metrics()["l1"]
    error.update(*depth.counted(torch.zeros(1, 8, 8), far))
    assert error.compute() == 0.25
    assert torch.equal(depth.wanted(raw), raw[:, 0] / 255)


@pytest.mark.parametrize(
    ("head", "raw", "words"),
    [
        (lambda: ClassHead(8, 3), torch.tensor([0, 3]), "class 3 in the data, but the head knows 0 to 2; set its"),
        (lambda: ClassHead(8, 1), None, "2 classes or more"),
        (lambda: ClassHead(8, 3, pool="attention", heads=3), None, "heads that divide 8"),
        (lambda: SegmentationHead(8, 4, **MAP), torch.full((1, 1, 8, 8), 4), "class 4 in the data"),
        (lambda: SegmentationHead(8, 4, **MAP), torch.zeros(1, 1, 9, 9), "the head is for 8x8; set its size"),
        (lambda: DepthHead(8, **{**MAP, "fine": 0}), None, "must be 1 or more"),
    ],
)
def test_what_does_not_fit_is_told(head, raw, words):
    with pytest.raises(UserError, match=words):
        head().wanted(raw)
