"""Matrix products are the same by whichever library they are computed."""

import copy

import pytest
import torch
import torch.nn.functional as F

from mmmask.flops import counting
from mmmask.transformer import linear as module
from mmmask.transformer.linear import Linear, linear

with_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch is without oneDNN")


@pytest.fixture
def asked(monkeypatch):
    """Products that go to oneDNN, on a processor where MKL is slow."""
    found, plain = [], torch.ops.mkldnn._linear_pointwise

    def spy(*arguments):
        found.append(arguments[0].shape)
        return plain(*arguments)

    monkeypatch.setattr(module, "_mkl_is_slow", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", spy)
    return found


def layer(bias=True, rows=512):
    torch.manual_seed(0)
    return Linear(96, 128, bias), torch.randn(3, rows, 96)


@with_onednn
@pytest.mark.parametrize("bias", [True, False])
def test_inference_by_onednn_gives_the_same_products(asked, bias):
    of, x = layer(bias)
    with torch.no_grad():
        torch.testing.assert_close(of(x), F.linear(x, of.weight, of.bias), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(of(x[:, ::2]), F.linear(x[:, ::2], of.weight, of.bias), rtol=1e-5, atol=1e-5)
        words = torch.randn(400, 96)[100:300]  # a part of a table
        torch.testing.assert_close(linear(x, words), F.linear(x, words), rtol=1e-5, atol=1e-5)
    assert len(asked) == 3


@pytest.mark.parametrize("slow", [pytest.param(True, marks=with_onednn), False])
def test_operations_are_counted_by_whichever_library(monkeypatch, slow):
    monkeypatch.setattr(module, "_mkl_is_slow", lambda: slow)
    of, x = layer()
    with torch.no_grad(), counting() as counter:
        of(x)
    assert counter.get_total_flops() == 2 * 3 * 512 * 96 * 128


@with_onednn
def test_all_else_is_computed_as_ever(asked):
    of, x = layer()
    of(x).sum().backward()
    assert of.weight.grad is not None
    with torch.no_grad():
        assert torch.equal(of(x[:, :2]), F.linear(x[:, :2], of.weight, of.bias))  # small
        double = copy.deepcopy(of).double()
        assert double(x.double()).dtype == torch.float64
        with torch.autocast("cpu", torch.bfloat16):
            assert of(x).dtype == torch.bfloat16
        assert of.to("meta")(x.to("meta")).is_meta
    assert not asked
