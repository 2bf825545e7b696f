"""The plain ENAT that speed is compared with draws the same images and has the same loss and gradients as ours."""

import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from plain_enat import PlainENAT
from synthesis_speed import Training, model

from mmmask.masking import Beta, RatioMask
from mmmask.synthesis import ENATSchedule, Noise, Sampler

SMALL = {"dim": 32, "encoder_depth": 2, "decoder_depth": 2, "heads": 4, "dropout": 0.0}


def test_the_same_images():
    generator = model(**SMALL).eval()
    classes, noise = torch.tensor([3, 700]), Noise([1, 2])
    ours = Sampler(ENATSchedule()).sample(generator, classes, noise)
    assert torch.equal(PlainENAT(generator).generate(classes, noise), ours)


@pytest.mark.parametrize("reuse", [False, True])
def test_the_same_loss_and_gradients(reuse, monkeypatch):
    monkeypatch.setattr("synthesis_speed.model", lambda: model(**SMALL))
    training = Training(batch=3, plain=False, low=False)
    split = RatioMask(Beta(), per="batch", keep=1)(training.model.tokens(training.ids))
    found = []
    for loss in (training.loss, training.plain_loss):
        training.model.zero_grad()
        value = loss(split, reuse)
        value.backward()
        found.append((value, {n: p.grad.clone() for n, p in training.model.named_parameters() if p.grad is not None}))
    (ours, gradients), (plain, expected) = found
    assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    assert gradients.keys() == expected.keys()
    for name in gradients:
        assert_close(gradients[name], expected[name], rtol=1e-4, atol=1e-6)
