"""Operations are counted, those of attention included."""

import pytest
import torch
import torch.nn.functional as F

from mmmask.flops import counting


@pytest.mark.parametrize("mask", [None, torch.ones(8, 8, dtype=torch.bool)])
def test_products_and_attention_are_counted(mask):
    x = torch.rand(1, 2, 8, 4)
    with counting() as counter:
        F.scaled_dot_product_attention(x, x, x, mask)
        x.reshape(16, 4) @ torch.rand(4, 5)
    assert counter.get_total_flops() == 2 * (2 * 8 * 8 * 4 * 2) + 2 * 16 * 4 * 5
