"""Drawings: seen through the same window as the picture of the sample, cut at its border."""

import io
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from datamodules import Drawing, Image
from datamodules.drawing_reader import inside
from datamodules.order import sample_generator
from datamodules.shards import BadSample
from datamodules.windows import Window
from mmmask.errors import UserError
from mmmask.tokenizers import Strokes

SQUARE = [[[20, 20, 0], [84, 20, 5], [84, 60, 9], [20, 60, 12]], [[50, 90, 20]]]


def read(reader, drawing, draw=0):
    return reader.read(json.dumps(drawing).encode(), sample_generator(0, 0, draw))


def png(drawing):
    """As the codec draws it."""
    stream = io.BytesIO()
    pixels = Strokes(105).picture([drawing], 105)[0, 0]
    Pillow.fromarray((pixels * 255).byte().numpy()).save(stream, "PNG")
    return stream.getvalue()


def test_points_come_as_they_are_when_all_is_seen_without_their_times():
    assert read(Drawing(105), SQUARE) == [[point[:2] for point in stroke] for stroke in SQUARE]
    assert read(Drawing(105, part="strokes"), {"strokes": None}) is None
    assert read(Drawing(105), []) == []


@pytest.mark.parametrize("draw", range(8))
def test_strokes_lie_where_the_picture_shows_them(draw):
    how = {"crop": "random", "scale": (0.5, 2.0), "flip": True}
    picture = torch.from_numpy(Image("png", 105, 1, **how).read(png(SQUARE), sample_generator(0, 0, draw)))[0] < 128
    strokes = read(Drawing(105, **how), SQUARE, draw)
    assert strokes != read(Drawing(105), SQUARE)
    places = np.concatenate([np.linspace(a, b, 9) for path in strokes for a, b in pairwise(path)])
    x, y = places.round().astype(int).clip(0, 104).T
    assert picture[y, x].float().mean() > 0.97
    drawn = Strokes(105).picture([strokes], 105)[0, 0] < 0.5  # with a pen that does not grow with the picture
    assert (picture & drawn).sum() > 0.5 * picture.sum()


def test_evaluation_sees_the_whole_and_a_given_window_its_part():
    reader = Drawing(100, crop="random", flip=True)
    assert reader.draws
    assert not reader.steady().draws
    assert read(reader.steady(), [[[0, 0], [99, 99]]]) == [[[0, 0], [99, 99]]]
    corner = Window(0.5, 1.0, 1.0)  # from 50 to 100
    assert read(reader.through(corner), [[[74.5, 74.5], [99.5, 74.5]]]) == [[[49.5, 49.5], [99.5, 49.5]]]
    mirrored = read(reader.through(Window(0.5, 1.0, 1.0, True)), [[[74.5, 74.5], [99.5, 74.5]]])
    assert mirrored == [[[49.5, 49.5], [-0.5, 49.5]]]


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ([[1, 1], [9, 9]], [[[1, 1], [9, 9]]]),
        ([[5, 5], [20, 5]], [[[5, 5], [10, 5]]]),
        ([[-5, 4], [15, 4]], [[[0, 4], [10, 4]]]),
        (
            [[0, 0], [20, 0], [20, 5], [5, 5], [5, -3], [7, 3]],
            [[[0, 0], [10, 0]], [[10, 5], [5, 5], [5, 0]], [[6, 0], [7, 3]]],
        ),
        ([[-5, 5], [-3, 6]], []),
        ([[-5, 4], [4, -5]], []),
        ([[12, 5]], []),
        ([[5, 5]], [[[5, 5]]]),
    ],
)
def test_a_path_is_cut_where_it_crosses_the_border(path, parts):
    assert [part.tolist() for part in inside(np.array(path, dtype=float), 0, 10)] == parts


def test_what_is_no_drawing_is_told():
    for wrong in (3, [[1, 2]], [[[1]]], [[["a", 2]]]):
        with pytest.raises(BadSample, match="list of strokes of points"):
            read(Drawing(105), wrong)
    with pytest.raises(UserError, match="size \\(0\\) must be positive"):
        Drawing(0)
    with pytest.raises(UserError, match="0 < scale"):
        Drawing(105, scale=(2.0, 1.0))
