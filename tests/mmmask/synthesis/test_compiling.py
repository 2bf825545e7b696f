"""`torch.compile(fullgraph=True)`: training and decoding are one graph each, whatever is masked in each sample."""

import pytest
import torch
import torch.nn.functional as F
from small_generators import MODES, WORDS, small_generator
from torch._dynamo.testing import CompileCounter
from torch.testing import assert_close

from mmmask.masking import Beta, RatioMask
from mmmask.synthesis import CosineSchedule, Sampler
from mmmask.tokens import Split

LENGTH = 16


@pytest.fixture(autouse=True)
def forget_graphs():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Loss(torch.nn.Module):
    """A training step: class, masked tokens and, with reuse, a memory to loss."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, split, classes, memory=None):
        logits, _ = self.model(self.model.tokens(ids), split, self.model.context(classes), memory)
        labels = ids.gather(1, split.asked).masked_fill(~split.asked_valid, -100)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def uneven_split(model, ids):
    split = RatioMask(Beta(2, 2))(model.tokens(ids), generator=torch.Generator().manual_seed(1))
    assert split.asked_valid.sum(1).unique().numel() > 1
    return split


@pytest.mark.parametrize("mode", MODES)
def test_training_on_uneven_counts_is_one_graph_with_the_same_gradients(mode):
    model = small_generator(mode, LENGTH)
    ids, classes = torch.randint(WORDS, (6, LENGTH)), torch.tensor([0, 1, 2, 3, -1, 0])
    split, step = uneven_split(model, ids), Loss(model)
    found = []
    for run in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        model.zero_grad()
        loss = run(ids, split, classes)
        loss.backward()
        found.append((loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    assert_close(found[1][0], found[0][0], rtol=1e-5, atol=1e-6)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        assert_close(found[1][1][name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_a_step_that_reuses_a_memory_is_one_graph():
    model = small_generator("read", LENGTH).eval()
    tokens = model.tokens(torch.randint(WORDS, (2, LENGTH)))
    context = model.context(torch.tensor([0, 3]))
    places = torch.arange(LENGTH).expand(2, -1)
    memory = model.remember(tokens, Split(places[:, :4], places[:, 4:]), context)
    now = Split(places[:, 4:9], places[:, 9:])
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        expected, found = model(tokens, now, context, memory), compiled(tokens, now, context, memory)
    assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    assert_close(found[1].features, expected[1].features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_decoding_compiles_a_few_times_and_then_no_more(mode):
    """Each step has shapes of its own; they become symbols instead of graphs, but for lengths of 0 and 1."""
    model, counter = small_generator(mode, LENGTH).eval(), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    sampler, classes = Sampler(CosineSchedule(8, guidance=1.0)), torch.tensor([0, 1, 2])
    plain = sampler.sample(model, classes, range(3))
    assert torch.equal(sampler.sample(compiled, classes, range(3)), plain)
    graphs = counter.frame_count
    assert graphs <= 6
    sampler.sample(compiled, classes, range(5, 8))
    assert counter.frame_count == graphs
    Sampler(CosineSchedule(6, guidance=2.0)).sample(compiled, classes, range(3))
    assert counter.frame_count <= graphs + 1
