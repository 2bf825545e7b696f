"""Attention rules, against attention written out."""

import pytest
import torch
from torch.testing import assert_close

from mmmask.errors import UserError
from mmmask.tokens import TokenSet, tokens_of
from mmmask.transformer.rules import Causal, SameModality, Scores, among_valid, attend


def qkv(seed=0):
    torch.manual_seed(seed)
    return torch.randn(2, 3, 5, 4), torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 4)


def written_out(q, k, v, scores):
    logits = q @ k.mT / 2
    logits = logits if scores.mul is None else logits * scores.mul
    logits = logits if scores.add is None else logits + scores.add
    logits = logits if scores.allow is None else torch.where(scores.allow, logits, -torch.inf)
    weights = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return (weights if scores.post_mul is None else weights * scores.post_mul) @ v


@pytest.mark.parametrize(
    "names", [["add"], ["allow"], ["mul"], ["post_mul"], ["add", "allow"], ["mul", "allow"], ["mul", "add", "post_mul"]]
)
def test_scores_are_applied_in_their_order(names):
    torch.manual_seed(1)
    every = {
        "add": torch.randn(1, 3, 5, 6),
        "mul": torch.rand(2, 1, 5, 6),
        "post_mul": torch.rand(1, 1, 5, 6),
        "allow": torch.rand(2, 1, 5, 6) < 0.7,
    }
    every["allow"][..., 0] = True
    scores = Scores(**{name: every[name] for name in names})
    assert_close(attend(*qkv(), scores), written_out(*qkv(), scores))
    assert not torch.allclose(attend(*qkv(), scores), attend(*qkv()), atol=1e-3)


def test_attention_in_bfloat16_is_learned_in_float32_on_a_cpu():
    parts = [part.bfloat16().requires_grad_() for part in qkv()]
    scores = Scores(add=torch.randn(5, 6).bfloat16().float(), allow=torch.eye(5, 6) < 1)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(*parts, scores)
    exact = attend(*(part.detach().float() for part in parts), scores)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.bfloat16())  # rounded once
    found.sum().backward()
    assert all(part.grad is not None and part.grad.dtype == torch.bfloat16 for part in parts)


def test_rules_compose():
    add, mul, allow = torch.randn(5, 6), torch.rand(5, 6), torch.rand(5, 6) < 0.8
    allow[:, 0] = True
    both = Scores(add=add, mul=mul, allow=allow) & Scores(add=add, mul=mul, post_mul=mul)
    assert_close(
        attend(*qkv(), both),
        written_out(*qkv(), Scores(add=2 * add, mul=mul**2, post_mul=mul, allow=allow)),
    )


def test_a_kernel_replaces_the_softmax_and_there_is_one_at_most():
    def mean(q, k, v, scores):
        return v.mean(2, keepdim=True).expand_as(q)

    q, k, v = qkv()
    scores = Scores(kernel=mean) & Scores(allow=torch.ones(5, 6, dtype=torch.bool))
    assert_close(attend(q, k, v, scores)[:, :, 3], v.mean(2))
    with pytest.raises(UserError, match="only one of them"):
        Scores(kernel=mean) & Scores(kernel=mean)


def test_same_modality_and_causal():
    modality = torch.tensor([[0, 0, 1]])
    tokens = TokenSet(modality, torch.tensor([[0, 1, 0]]), torch.zeros(1, 3, dtype=torch.long))
    same = SameModality()(tokens, tokens).allow[0, 0]
    assert same.tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    causal = (Causal()(tokens, tokens) & SameModality()(tokens, tokens)).allow[0, 0]
    assert causal.tolist() == [[True, False, False], [True, True, False], [False, False, True]]


def test_padding_is_seen_by_nobody():
    tokens = tokens_of(torch.zeros(2, 3, dtype=torch.long)).pad_to(6)
    q, k, v = qkv()
    assert_close(attend(q, k, v, among_valid(tokens)), attend(q, k[:, :, :3], v[:, :, :3]))
    assert among_valid(tokens_of(torch.zeros(2, 3, dtype=torch.long))) is None
