"""The trace of a decoding adds up to the whole of it, for every sampler."""

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from mmmask.flops import counting
from mmmask.report import Trace
from mmmask.synthesis import AdaptiveSampler, CosineSchedule, ENATSchedule, ImageGenerator, Policy, ReCAP, Sampler
from mmmask.tokens import BLANK, Split
from mmmask.transformer import ENAT

WORDS, LENGTH = 11, 16
CLASSES = torch.tensor([0, 1, 2, 3])


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = ImageGenerator(ENAT(WORDS, LENGTH, 4, dim=16, encoder_depth=2, decoder_depth=2, heads=2))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def policy():
    torch.manual_seed(1)
    policy = Policy(16, LENGTH, steps=4, heuristic=True, hidden=8, narrow=2, wide=(8, 8))
    torch.nn.init.normal_(policy.actor.layers[-1].weight, std=2.0)
    return policy


SAMPLERS = {
    "plain": lambda: Sampler(ENATSchedule(4)),
    "local": lambda: ReCAP(CosineSchedule(4, guidance=1.0)),
    "policy": lambda: AdaptiveSampler(policy()),
}
PASSES = {"plain": (7, 0), "local": (4, 4), "policy": (8, 0)}  # full ones, and of a few tokens, for an image


@pytest.mark.parametrize("name", SAMPLERS)
def test_it_adds_up(name, model):
    sampler, trace = SAMPLERS[name](), Trace()
    blank = torch.full((4, LENGTH), BLANK)
    *_, last = trace.of(sampler.steps(model, CLASSES, range(4)), blank)
    with counting() as counter:
        plain = sampler.sample(model, CLASSES, range(4))
    assert torch.equal(last.ids, plain)
    assert torch.stack(trace.revealed).sum(0).tolist() == [LENGTH] * 4
    assert sum(trace.gflop) == pytest.approx(counter.get_total_flops() / 1e9)
    record = trace.record()
    assert (record["evaluations"][-1], record["passes_of_a_few"][-1]) == PASSES[name]
    chances = torch.stack(trace.confidence)
    assert ((chances > 0) & (chances <= 1) | chances.isnan()).all()
    if name == "policy":
        masked = torch.stack([step["masked"] for step in trace.settings])
        assert masked.std(1).max() > 1e-3  # each image by itself
        left = LENGTH - torch.stack(trace.revealed).cumsum(0)
        bound = (LENGTH * masked[:-1]).floor().clamp(max=LENGTH - 1)
        assert torch.equal(left[:-1], torch.minimum(bound, torch.cat([torch.full((1, 4), LENGTH), left[:-2]])).long())
    else:
        assert_close(trace.settings[1]["guidance"], torch.full((4,), sampler.schedule.steps[1].guidance))


def test_confidence_is_the_chance_of_the_words_that_stayed(model):
    trace, ids = Trace(), torch.randint(WORDS, (4, LENGTH), generator=torch.Generator().manual_seed(0))
    blank = ids.clone()
    blank[:, 5] = BLANK
    *_, last = trace.of(Sampler(CosineSchedule(1)).steps(model, CLASSES, range(4), blank), blank)
    known = torch.tensor([i for i in range(LENGTH) if i != 5]).expand(4, -1)
    logits, _ = model(model.tokens(ids), Split(known, torch.full((4, 1), 5)), model.context(CLASSES))
    expected = logits.softmax(-1)[:, 0].gather(1, last.ids[:, 5:6])[:, 0]
    assert_close(trace.confidence[0], expected.detach(), rtol=1e-4, atol=1e-5)


def test_it_is_drawn(model, tmp_path):
    trace = Trace()
    list(trace.of(AdaptiveSampler(policy()).steps(model, CLASSES, range(4)), torch.full((4, LENGTH), BLANK)))
    trace.draw(tmp_path / "trace.png")
    assert Image.open(tmp_path / "trace.png").width > 1500
