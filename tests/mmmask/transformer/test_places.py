"""Places of tokens: in one picture, whatever grid they are of."""

import torch
import torch.nn.functional as F

from mmmask.modalities import Modality
from mmmask.transformer import FourM
from mmmask.transformer.places import along_axes, in_a_grid, in_a_picture


def alike(a, b):
    return F.cosine_similarity(a[:, None], b[None], dim=2)


def test_a_place_in_a_coarse_grid_is_between_those_of_the_fine_tokens_it_covers():
    fine, coarse = in_a_picture(8, 128), in_a_picture(4, 128)
    nearest = alike(coarse, fine).topk(4, 1).indices.sort(1).values
    row, column = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    first = (16 * row + 2 * column).flatten()
    assert torch.equal(nearest, first[:, None] + torch.tensor([0, 1, 8, 9]))


def test_neighbours_in_a_small_grid_are_easier_told_apart_than_by_the_published_places():
    ours, theirs = (alike(places, places)[0, 1] for places in (in_a_picture(8, 128), in_a_grid(8, 8, 128)))
    assert 1 - ours > 2 * (1 - theirs)


def test_grids_of_a_backbone_share_the_picture_only_where_asked():
    modalities = [Modality("coarse", 16, 8), Modality("fine", 64, 8)]  # whatever others there are
    for places, expected in (("picture", in_a_picture(4, 32)), ("index", in_a_grid(4, 4, 32))):
        embedding = FourM(modalities, 32, 1, 1, 2, places=places).embedding
        first = embedding.first_place[0]
        assert torch.equal(embedding.fixed[first : first + 16], expected)


def test_coordinates_lie_where_tokens_of_the_first_row_and_column_do():
    grid = in_a_picture(6, 64).view(6, 6, 64)
    x, y = along_axes(6)
    assert torch.equal(x, grid[0])
    assert torch.equal(y, grid[:, 0])
