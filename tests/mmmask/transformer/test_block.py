"""Attention and blocks, against the plain formula."""

import pytest
import torch

from mmmask.errors import UserError
from mmmask.transformer import Attention, Block
from mmmask.transformer.block import Style


def test_attention_is_the_softmax_of_scaled_products_per_head():
    torch.manual_seed(0)
    attention = Attention(8, 2)
    x = torch.randn(3, 5, 8)
    q, k, v = attention.qkv(x).split(8, dim=-1)
    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        weights = (q[..., part] @ k[..., part].mT / 4**0.5).softmax(-1)
        heads.append(weights @ v[..., part])
    torch.testing.assert_close(attention(x), attention.out(torch.cat(heads, -1)))


def test_a_block_does_not_care_for_the_order_of_tokens():
    torch.manual_seed(0)
    block = Block(8, 2)
    for weight in block.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    x = torch.randn(2, 5, 8)
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(block(x[:, order]), block(x)[:, order])
    assert not torch.allclose(block(x), x, atol=0.1)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(UserError, match="dim 10 does not divide into 4 heads"):
        Attention(10, 4)


def test_dropout_leaves_out_a_share_of_what_is_added_in_training_alone():
    torch.manual_seed(0)
    x, plain = torch.randn(64, 5, 8), Block(8, 2)
    dropping = Block(8, 2, Style(dropout=0.5))
    dropping.load_state_dict(plain.state_dict())
    for block in (plain, dropping):
        torch.nn.init.zeros_(block.mlp[2].weight)
        torch.nn.init.ones_(block.mlp[2].bias)  # one part of the two is then 1 everywhere
        torch.nn.init.zeros_(block.attention.out.weight)
        torch.nn.init.zeros_(block.attention.out.bias)
    added = dropping(x) - x
    assert set(added.round(decimals=4).unique().tolist()) == {0.0, 2.0}
    assert abs((added == 0).float().mean().item() - 0.5) < 0.05
    torch.testing.assert_close(dropping.eval()(x), plain(x))
