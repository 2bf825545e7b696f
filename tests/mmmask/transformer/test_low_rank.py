"""Products of narrow matrices beside those of a model: nothing at the start, all that learns, and one matrix again."""

import copy

import pytest
import torch
from torch import nn

from mmmask.errors import UserError
from mmmask.transformer import Stack, add_low_rank, with_products


def test_nothing_changes_at_the_start_and_only_products_learn():
    torch.manual_seed(0)
    stack, x = Stack(2, 16, 2), torch.randn(2, 5, 16)
    before, weights = stack(x), copy.deepcopy(stack.state_dict())
    add_low_rank(stack.blocks, 3)
    assert torch.equal(stack(x), before)
    learning = [name for name, weight in stack.named_parameters() if weight.requires_grad]
    assert learning
    assert all(name.endswith((".0.up", ".0.down")) for name in learning)
    optimizer = torch.optim.SGD([w for w in stack.parameters() if w.requires_grad], 1.0)
    stack(x).square().mean().backward()
    optimizer.step()
    after = stack(x)
    assert not torch.allclose(after, before)
    plain = Stack(2, 16, 2)
    plain.load_state_dict(with_products(stack.state_dict()))
    assert torch.allclose(plain(x), after, atol=1e-6)
    changed = plain.blocks[0].attention.qkv.weight - weights["blocks.0.attention.qkv.weight"]
    assert torch.linalg.matrix_rank(changed) <= 3


def test_attention_of_torch_has_products_too():
    torch.manual_seed(0)
    attention, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 5, 8)
    before, _ = attention(x, x, x)
    add_low_rank([attention], 2)
    assert torch.equal(attention(x, x, x)[0], before)
    names = {name for name, weight in attention.named_parameters() if weight.requires_grad}
    assert "parametrizations.in_proj_weight.0.up" in names
    nn.init.normal_(attention.parametrizations.in_proj_weight[0].up)
    plain = nn.MultiheadAttention(8, 2, batch_first=True)
    plain.load_state_dict(with_products(attention.state_dict()))
    assert torch.allclose(plain(x, x, x)[0], attention(x, x, x)[0], atol=1e-6)


def test_weights_without_products_stay_as_they_are():
    weights = Stack(1, 16, 2).state_dict()
    assert with_products(weights) == weights


def test_a_rank_is_one_or_more():
    with pytest.raises(UserError, match="low_rank is 0"):
        add_low_rank([nn.Linear(2, 2)], 0)
