"""Palettes of pictures as words, and stripes of what words tell."""

import json

import pytest
import torch

from mmmask.errors import UserError
from mmmask.tokenizers import Palette, learn_words

WORDS = json.loads(learn_words(["a"], 1100, sentinels=16, coordinates=256).to_str())
RED, WHITE, NAVY = [255, 0, 0], [255, 255, 255], [0, 0, 128]


@pytest.fixture(scope="module")
def codec():
    return Palette(WORDS, colours=4)


def picture(*colours):
    """Rows of these colours, as many as there are."""
    return torch.tensor(colours, dtype=torch.uint8).T[:, :, None].expand(-1, -1, 12)


def text(codec, data, row=0):
    return codec.words.decode(data.ids[row, : data.length[row]])


def back(codec, data):
    return codec.decode(torch.from_numpy(data.ids), torch.from_numpy(data.length))


def test_a_palette_is_a_count_and_three_values_for_each_colour_from_dark_to_bright(codec):
    data = codec.encode(picture(WHITE, RED, NAVY, RED)[None])
    assert text(codec, data) == "v1=3 v0=0 v0=0 v0=128 v0=255 v0=0 v0=0 v0=255 v0=255 v0=255"
    assert codec.modality("palette").length == 13


def test_what_a_palette_decodes_to_has_the_same_palette(codec):
    data = codec.encode(torch.stack([picture(WHITE, RED, NAVY), picture(RED, RED, NAVY), picture(RED, RED, RED)]))
    stripes = back(codec, data)
    assert stripes.shape == (3, 3, 64, 64)
    assert (codec.encode(stripes).ids == data.ids).all()
    assert (stripes[1, :, 0, [0, -1]].T * 255).tolist() == [NAVY, RED]


def test_many_colours_become_few_that_are_near(codec):
    noisy = picture(*[NAVY] * 6, *[RED] * 6).float() / 255
    noisy = (noisy + 0.02 * torch.rand(noisy.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    data = Palette(WORDS, colours=2).encode(noisy[None])
    found = back(codec, data)[0, :, 0, [0, -1]].T
    assert data.length.tolist() == [7]
    assert (found - torch.tensor([NAVY, RED]) / 255).abs().max() < 0.03


def test_few_levels_are_as_exact_as_that():
    codec = Palette(WORDS, levels=5)
    data = codec.encode(picture([10, 60, 120])[None])
    assert text(codec, data) == "v1=1 v0=0 v0=1 v0=2"
    assert (back(codec, data)[0, :, 0, 0] * 255).tolist() == [0, 64, 128]


def test_transparent_is_white_grey_is_grey_and_nan_absent(codec):
    clear = torch.zeros(1, 4, 3, 3)
    assert text(codec, codec.encode(clear)) == "v1=1 v0=255 v0=255 v0=255"
    assert text(codec, codec.encode(torch.zeros(1, 1, 3, 3))) == "v1=1 v0=0 v0=0 v0=0"
    absent = codec.encode(torch.full((1, 3, 3, 3), torch.nan))
    assert absent.length.tolist() == [0]
    assert back(codec, absent).isnan().all()


def test_broken_colours_are_left_out(codec):
    count, value = codec.words.ids["v1=2"], codec.words.ids["v0=7"]
    stripes = codec.decode(torch.tensor([[count, 1, value, value, value, value]]), torch.tensor([6]))
    assert (stripes * 255).unique().tolist() == [7]


def test_colours_may_be_typed(codec):
    assert text(codec, codec.encode(codec.typed("#ff0000, #000080"))).startswith("v1=2 v0=0 v0=0 v0=128")
    with pytest.raises(UserError, match="are no colours"):
        codec.typed("#ff00")


def test_what_it_needs_is_told():
    with pytest.raises(UserError, match="no word 'v0=256'|colours is 0"):
        Palette(WORDS, colours=0)
    with pytest.raises(UserError, match="no word 'v0=8'"):
        Palette(json.loads(learn_words(["a"], 100, sentinels=4, coordinates=8).to_str()))
