"""The head of discovery: what it looks at, how it begins, its precision."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from mmmask.errors import UserError
from mmmask.heads import DiscoveryHead, Projector, Prototypes


def test_features_of_any_shape_are_projected_and_compared():
    torch.manual_seed(0)
    head = DiscoveryHead(8, 5, width=4, hidden=16)
    features = torch.randn(2, 3, 7, 8)
    seen = head(features)
    assert seen.projection.shape == (2, 3, 7, 4)
    assert seen.logits.shape == (2, 3, 7, 5)
    assert_close(seen.projection[1, 2], head(features[1, 2]).projection)


def test_logits_are_cosines_with_the_features_not_with_their_projection():
    torch.manual_seed(0)
    head = DiscoveryHead(8, 5, width=4, hidden=16)
    before = head(head.prototypes.weight * 3).logits
    assert_close(before.diagonal(), torch.ones(5))
    torch.nn.init.zeros_(head.projector.linears[0].weight)
    assert_close(head(head.prototypes.weight * 3).logits, before)


def test_cosines_keep_full_precision_where_layers_are_mixed():
    torch.manual_seed(0)
    prototypes, features = Prototypes(64, 10), torch.randn(20, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = prototypes(features)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, prototypes(features))


def test_the_projector_begins_as_that_of_dino():
    torch.manual_seed(0)
    linear = Projector(512).linears[1]
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert not linear.bias.any()


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: Projector(8, layers=0), "layers must be 1 or more"),
        (lambda: Prototypes(8, 1), "2 or more classes"),
    ],
)
def test_mistakes_are_told(run, words):
    with pytest.raises(UserError, match=words):
        run()


def test_looks_begin_with_the_same_prototypes_and_have_their_own():
    prototypes = Prototypes(8, 5, looks=2)
    assert torch.equal(*prototypes.weight)
    with torch.no_grad():
        prototypes.weight[1].neg_()
    features = torch.randn(2, 3, 4, 8)
    found = prototypes(features)
    for look, sign in ((0, 1), (1, -1)):
        expected = F.normalize(features[look], dim=-1) @ F.normalize(prototypes.weight[0], dim=-1).T
        assert_close(found[look], sign * expected)
    found[0].sum().backward()
    assert not prototypes.weight.grad[1].any()
