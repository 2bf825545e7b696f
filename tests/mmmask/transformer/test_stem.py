"""The stem: convolutions over the known patches of a picture."""

import pytest
import torch

from mmmask.errors import UserError
from mmmask.modalities import Modality
from mmmask.tokenizers import Patches
from mmmask.tokens import TokenSet, side_by_side
from mmmask.transformer import FourM
from mmmask.transformer.stem import ConvStem


@pytest.fixture
def stem():
    torch.manual_seed(0)
    return ConvStem(Patches(32, 3, 8).modality("rgb"), 32)


def patches(picture):
    return Patches(32, 3, 8).encode(picture).values


def places(batch=1):
    return torch.arange(16).expand(batch, -1)


def test_patches_are_put_where_they_stand_whatever_their_order(stem):
    values, order = patches(torch.rand(1, 3, 32, 32)), torch.randperm(16)
    meant = torch.ones(1, 16, dtype=torch.bool)
    straight = stem(values, places(), meant)
    assert torch.allclose(stem(values[:, order], places()[:, order], meant), straight[:, order], atol=1e-5)


def test_the_picture_is_that_which_was_cut_into_patches(stem):
    picture = torch.rand(1, 3, 32, 32)
    seen = stem.out(stem.layers((picture - 0.5) / 0.25)).flatten(2).transpose(1, 2)
    assert torch.allclose(stem(patches(picture), places(), torch.ones(1, 16, dtype=torch.bool)), seen, atol=1e-4)


def test_a_patch_sees_its_known_neighbours_and_nothing_of_what_is_not_known(stem):
    values, meant = patches(torch.rand(1, 3, 32, 32)), torch.ones(1, 16, dtype=torch.bool)
    meant[:, 1] = False
    others = values.clone()
    others[:, 1] += 1
    features = stem(values, places(), meant)
    assert torch.equal(stem(others, places(), meant)[:, 0], features[:, 0])
    meant[:, 1] = True
    assert not torch.allclose(stem(others, places(), meant)[:, 0], features[:, 0], atol=1e-3)


def test_a_backbone_puts_each_of_several_pictures_through_its_own_stem():
    codecs = {"rgb": Patches(16, 3, 4), "grey": Patches(16, 1, 8)}
    torch.manual_seed(0)
    backbone = FourM([c.modality(n) for n, c in codecs.items()], 32, 1, 1, 2, stem="conv").eval()
    raw = {"rgb": torch.rand(2, 3, 16, 16), "grey": torch.rand(2, 1, 16, 16)}

    def features(numbers):
        data, values = side_by_side({name: codecs[name].encode(raw[name]) for name in raw})
        names = list(raw)
        kinds = torch.cat([torch.full((2, data[names[n]].ids.shape[1]), n) for n in numbers], 1)
        ids = torch.cat([torch.from_numpy(data[names[n]].ids) for n in numbers], 1)
        place = torch.cat([torch.arange(data[names[n]].ids.shape[1]).expand(2, -1) for n in numbers], 1)
        return backbone.embedding(TokenSet(kinds, place, ids, values))

    both = features([0, 1])
    assert torch.allclose(both[:, :16], features([0]), atol=1e-5)
    assert torch.allclose(both[:, 16:], features([1]), atol=1e-5)


def test_other_patches_than_convolutions_can_halve_are_refused():
    with pytest.raises(UserError, match="rgb needs patches of 2, 4, 8"):
        ConvStem(Modality("rgb", 4, channels=27, patch=3), 32)
    with pytest.raises(UserError, match="divides by 16"):
        ConvStem(Modality("rgb", 4, channels=48, patch=4), 24)
