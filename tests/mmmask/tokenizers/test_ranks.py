"""A tokenizer trained by several ranks is the one that a single process trains on all their samples."""

import pytest
import torch
import torch.distributed as dist
from processes import together
from torch import nn

from mmmask.tokenizers import CosineQuantizer
from mmmask.tokenizers.vit_vq import BatchSpread


def in_ranks(world, check, *arguments):
    def joined(rank):
        dist.init_process_group("gloo")
        check(rank, world, *arguments)

    together(world, joined)


def batches(samples, tokens=5, dim=4, steps=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(samples, tokens, dim, generator=generator) for _ in range(steps)]


def _codebook(rank, world, samples, codes, expected):
    quantizer = CosineQuantizer(codes, 4, dead_below=0.5)
    quantizer.load_state_dict(expected[0])
    torch.manual_seed(rank)  # only that of the first counts
    for batch in batches(samples):
        quantizer(batch[rank::world])
    torch.testing.assert_close(dict(quantizer.state_dict()), expected[1])


@pytest.mark.parametrize("codes", [8, 64])  # fewer than vectors, and more
@pytest.mark.parametrize("world", [2, 3])
def test_codes_are_born_and_follow_as_with_one_process(world, codes):
    alone = CosineQuantizer(codes, 4, dead_below=0.5)
    before = {name: value.clone() for name, value in alone.state_dict().items()}
    given = batches(6)
    torch.manual_seed(0)
    for batch in given:
        alone(batch)
    in_ranks(world, _codebook, 6, codes, (before, dict(alone.state_dict())))


def _births(rank, world):
    batch = torch.arange(1.0, 6)[:, None, None].expand(5, 3, 4)  # each sample has its number in all of its vectors
    births = CosineQuantizer(256, 4)._births(batch[rank::world])
    assert set(births.flatten().tolist()) == {1, 2, 3, 4, 5}
    first = births.clone()
    dist.broadcast(first, 0)
    assert births.equal(first)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_with_a_sample_less_give_vectors_of_theirs(world):
    in_ranks(world, _births)


def _spread(rank, world, x, expected):
    mine = x[rank::world].clone().requires_grad_()
    spread = BatchSpread(x.shape[1])
    weights = torch.linspace(-1, 1, x.numel()).view_as(x)[rank::world]
    out = spread(mine)
    (out * weights).sum().backward()
    ours = out.detach(), mine.grad, dict(spread.state_dict())
    torch.testing.assert_close(ours, (expected[0][rank::world], expected[1][rank::world], expected[2]))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("count", [12, 13])
def test_the_spread_and_its_gradient_are_those_of_one_batch_norm(world, count):
    torch.manual_seed(0)
    x = 3 + 2 * torch.randn(count, 4)
    alone, whole = nn.BatchNorm1d(4, affine=False), x.clone().requires_grad_()
    out = alone(whole)
    (out * torch.linspace(-1, 1, x.numel()).view_as(x)).sum().backward()
    in_ranks(world, _spread, x, (out.detach(), whole.grad, dict(alone.state_dict())))


def test_one_process_spreads_as_batch_norm_does_to_the_last_bit():
    torch.manual_seed(0)
    ours, theirs = BatchSpread(4), nn.BatchNorm1d(4, affine=False)
    for x in torch.randn(3, 16, 4):
        assert ours(x).equal(theirs(x))
    ours.load_state_dict(theirs.state_dict())  # the names of older checkpoints
    assert ours.eval()(x).equal(theirs.eval()(x))
