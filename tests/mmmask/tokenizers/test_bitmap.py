"""Silhouettes, ink and edges as exact words."""

import pytest
import torch

from mmmask.errors import UserError
from mmmask.tokenizers import Bitmap


def square(value=1.0, paper=0.0, side=32):
    """A picture with a square of this grey in its upper left quarter."""
    picture = torch.full((1, 1, side, side), paper)
    picture[..., : side // 2, : side // 2] = value
    return picture


def back(codec, data):
    return codec.decode(torch.from_numpy(data.ids), torch.from_numpy(data.length))


@pytest.mark.parametrize("cell", [1, 2, 4])
def test_bitmaps_come_back(cell):
    bits = torch.rand(5, 1, 16, 16, generator=torch.Generator().manual_seed(0)).round()
    black = torch.zeros(5, 3, 16, 16)
    for of, pictures in (("ink", bits), ("alpha", torch.cat([black, bits], 1))):
        codec = Bitmap(16, cell, of)
        data = codec.encode(pictures)
        assert torch.equal(back(codec, data), pictures)
        assert data.ids.shape == (5, (16 // cell) ** 2)
        assert data.ids.max() < codec.modality("ink").vocab_size == 2 ** (cell * cell)
        assert (data.length == codec.modality("ink").length).all()


def test_blocks_lie_row_by_row():
    data = Bitmap(4, 2, "ink").encode(square(0.0, paper=1.0))
    assert data.ids.tolist() == [[15, 0, 0, 0]]
    one = torch.ones(1, 1, 4, 4)
    one[..., 1, 2] = 0
    assert Bitmap(4, 2, "ink").encode(one).ids.tolist() == [[0, 4, 0, 0]]


def test_a_silhouette_is_what_alpha_covers():
    picture = torch.zeros(1, 4, 32, 32, dtype=torch.uint8)
    picture[:, 3:] = (square() * 255).byte()
    codec = Bitmap(8, 2, "alpha")
    assert torch.equal(back(codec, codec.encode(picture))[:, 3:], square(side=8))
    assert torch.equal(codec.bits(picture.float() / 255), codec.bits(picture))


def test_a_bit_is_set_from_the_share_that_is_asked():
    strip = torch.ones(1, 1, 8, 8)
    strip[..., 2] = 0  # a quarter of the first half
    assert Bitmap(2, 1, "ink", 0.25).encode(strip).ids.tolist() == [[1, 0, 1, 0]]
    assert not Bitmap(2, 1, "ink", 0.3).encode(strip).ids.any()


def test_transparent_places_have_no_ink_and_colours_count_as_grey():
    picture = torch.zeros(1, 4, 4, 4)
    assert not Bitmap(4, 2, "ink").encode(picture).ids.any()
    yellow, blue = (torch.tensor(c).view(1, 3, 1, 1).expand(1, 3, 4, 4) for c in ((1.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
    assert not Bitmap(4, 2, "ink").encode(yellow).ids.any()
    assert (Bitmap(4, 2, "ink").encode(blue).ids == 15).all()


def test_edges_are_where_grey_steps_far_enough():
    found = Bitmap(32, 2, "edges").bits(square())[0]
    assert found[15:17, :15].all()
    assert found[:15, 15:17].all()
    assert found.sum() == 2 * 16 + 2 * 16 - 2 * 2 + 3  # two lines, two wide, that meet in a round corner
    assert torch.equal(Bitmap(32, 2, "edges", 0.1).bits(square(0.5)), Bitmap(32, 2, "edges", 0.2).bits(square()))
    assert not Bitmap(32, 2, "edges", 0.6).bits(square(0.5)).any()


@pytest.mark.parametrize(("of", "channels"), [("alpha", 4), ("ink", 3), ("edges", 1)])
def test_a_picture_that_is_absent_has_no_words_and_stays_absent(of, channels):
    pictures = torch.rand(3, channels, 16, 16, generator=torch.Generator().manual_seed(0))
    codec, there = Bitmap(8, 2, of), [0, 2]
    data = codec.encode(torch.where(torch.tensor([False, True, False]).view(-1, 1, 1, 1), torch.nan, pictures))
    assert data.length.tolist() == [16, 0, 16]
    assert (data.ids[there] == codec.encode(pictures).ids[there]).all()
    found = back(codec, data)
    assert found[1].isnan().all()
    assert not found[there].isnan().any()


def test_what_cannot_be_is_told():
    with pytest.raises(UserError, match="alpha needs RGBA"):
        Bitmap().encode(torch.zeros(1, 3, 16, 16))
    with pytest.raises(UserError, match="2 channels"):
        Bitmap(of="ink").encode(torch.zeros(1, 2, 16, 16))
    for wrong in ({"cell": 3}, {"cell": 5, "size": 10}, {"of": "depth"}, {"threshold": 0.0}):
        with pytest.raises(UserError, match="give"):
            Bitmap(**wrong)
