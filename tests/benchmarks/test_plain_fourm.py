"""The plain 4M that speed is compared with has the same logits, loss and gradients, and makes the same tokens."""

import sys
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from cross_modal_speed import Captioning, Generation, Masking, Training

from mmmask.heads import answers
from mmmask.modalities import Modality
from mmmask.pretrained.fourm import write_fourm

SMALL = {"dim": 32, "encoder_depth": 2, "decoder_depth": 2, "heads": 4}
MODALITIES = [
    Modality("rgb@224", 196, channels=12),
    Modality("tok_rgb@224", 196, 90),
    Modality("tok_depth@224", 196, 40),
    Modality("caption", 70, 300, kind="sequence", sentinels=(5, 90)),
]


@pytest.fixture
def training():
    job = Training(MODALITIES, 5, **SMALL)
    job.prepare(3)
    return job


@torch.no_grad()
def test_the_same_logits(training):
    known, asked, wanted = training.question
    features = training.ours.decode(asked, training.ours.encode(known), rule=training.rule)
    theirs = training.plain(training.batch, 128, 128)
    assert theirs.keys() == {"tok_rgb@224", "tok_depth@224", "caption"}
    for number, modality in enumerate(MODALITIES[1:], 1):
        logits, words = theirs[modality.name]
        its = asked.valid & (asked.modality == number)
        assert its.any()
        ours = answers.logits(training.ours.embedding, modality.name, features[its])
        assert_close(ours, logits, rtol=1e-4, atol=1e-4)
        assert torch.equal(wanted[its], words)


def test_the_same_loss_and_gradients(training):
    assert_close(training.loss(), training.plain_loss(), rtol=1e-5, atol=1e-6)
    for loss in (training.loss(), training.plain_loss()):
        loss.backward()
    ours = {name: p.grad for name, p in training.ours.named_parameters()}
    ours["embedding.learned.weight"] = ours["embedding.learned_asked.weight"] = torch.zeros(0, 32)
    ours = write_fourm(ours, MODALITIES)
    for name, parameter in training.plain.named_parameters():
        if parameter.requires_grad:
            assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("job", [Generation, Captioning])
def test_the_same_tokens(job):
    made = job(MODALITIES, 2, **SMALL)
    ours, plain = made.run(False), made.run(True)
    assert len(ours.unique()) > 3
    assert torch.equal(ours, plain)


def test_plain_masks_keep_to_their_budgets():
    made = Masking(MODALITIES, 2)
    for sample in made.run(True)[:40]:
        known, asked = (sum(int((~masks[side]).sum()) for masks in sample.values()) for side in (1, 2))
        assert 0 < known <= 128
        assert asked <= 128
        assert sample["rgb@224"][2].all()
