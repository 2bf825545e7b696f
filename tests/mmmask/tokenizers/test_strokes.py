"""Drawings as words: few of them, close to the pen's path, and whole after anything a model may say."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from mmmask.errors import UserError
from mmmask.tokenizers import Strokes
from mmmask.tokenizers.strokes import bends, filled

CODEC = Strokes(100, bins=100, most_points=8)
ANGLE = [[x, 10, 7 * x] for x in range(10, 50)] + [[49, y, 0] for y in range(11, 60)]
DOT = [[80, 80, 0]]
END = CODEC.sentinels[1]


def back(codec, data):
    return codec.decode(torch.from_numpy(data.ids), torch.from_numpy(data.length))


def point(x, y):
    return END + 1 + 100 * y + x


def decoded(*words):
    return CODEC.decode(torch.tensor([words]), torch.tensor([len(words)]))[0]


def beside(path, drawing):
    """How far the points of a path lie from the lines of a drawing."""
    lines = [(a, b) for stroke in drawing for a, b in zip(stroke, [*stroke[1:], stroke[-1]], strict=True)]
    first, second = (np.array(ends)[:, None] for ends in zip(*lines, strict=True))
    way, off = second - first, np.array(path)[None, :, :2] - first
    along = np.clip((off * way).sum(-1) / np.maximum((way * way).sum(-1), 1e-9), 0, 1)
    return np.linalg.norm(off - along[..., None] * way, axis=-1).min(0)


def test_a_drawing_is_the_points_where_it_bends_and_the_ends_of_its_strokes():
    codec = Strokes(100, bins=100, most_points=4)
    end = codec.sentinels[1]
    words = [end + 1 + place for place in (1010, 1049, 5949)] + [end, end + 8081, end]
    data = codec.encode([[ANGLE, DOT]])
    assert data.ids[0].tolist() == words
    assert data.length.tolist() == [6]
    assert data.chunks[0].tolist() == [0] * 4 + [1] * 2
    assert back(codec, data) == [[[[10, 10], [49, 10], [49, 59]], [[80, 80]]]]


def test_points_that_are_left_halve_the_longest_ways():
    assert filled([[(0, 0), (8, 0)], [(0, 0), (0, 3)]], 5, 1.0) == [[(0, 0), (4, 0), (8, 0)], [(0, 0), (0, 3)]]
    assert filled([[(0, 0), (8, 0), (8, 1)]], 9, 2.0) == [[(0, 0), (2, 0), (4, 0), (6, 0), (8, 0), (8, 1)]]
    assert filled([[(1, 1)], []], 9, 2.0) == [[(1, 1)], []]
    (drawing,) = back(CODEC, CODEC.encode([[ANGLE, DOT]]))
    assert [len(stroke) for stroke in drawing] == [7, 1]
    assert beside(ANGLE, drawing).max() < 1


def test_no_drawing_is_absent_and_an_empty_stroke_is_none():
    data = CODEC.encode([None, [], [[]], [[], DOT]])
    assert data.length.tolist() == [0, 0, 0, 2]
    assert back(CODEC, data) == [[], [], [], [[[80, 80]]]]


def test_points_run_out_for_the_least_bends_first():
    wave = [[x, 50 + 20 * np.sin(x / 6)] for x in range(90)]
    assert len(bends([wave], 8, 0.0)[0]) == 8
    straight = [[float(x), 0.1 * (x == 5)] for x in range(10)]
    found = bends([straight, wave], 8, 0.0)
    assert [len(path) for path in found] == [2, 6]
    data = CODEC.encode([[[[0, 0], [9, 9]]] * 9])
    assert data.length.tolist() == [12]  # four strokes are all that 8 points can be


def test_a_circle_that_ends_where_it_begins_stays_a_circle():
    circle = [[50 + 30 * np.cos(a), 50 + 30 * np.sin(a)] for a in np.linspace(0, 2 * np.pi, 40)]
    codec = Strokes(100, 100, 16)
    assert beside(circle, back(codec, codec.encode([[circle]]))[0]).mean() < 1


def test_a_stroke_may_be_a_gap_that_an_answer_fills():
    known = CODEC.encode([[DOT, None], None])
    assert known.length.tolist() == [3, 0]
    assert CODEC.gaps(known).tolist() == [1, 1]
    answer = torch.tensor([[1, point(1, 2), END, 2]] * 2)
    whole = CODEC.fill(known, answer, torch.tensor([4, 4]))
    assert back(CODEC, whole) == [[[[80, 80]], [[1, 2]]], [[[1, 2]]]]


def test_broken_drawings_keep_their_points():
    a, b = point(1, 2), point(3, 4)
    assert decoded(a, END, b) == [[[1, 2]], [[3, 4]]]
    assert decoded(END, END, a, 0, b, 1) == [[[1, 2], [3, 4]]]
    assert decoded(END, 0, END) == []
    anything = torch.randint(CODEC.vocab_size, (50, 20), generator=torch.Generator().manual_seed(0))
    for drawing in CODEC.decode(anything, torch.full((50,), 20)):
        assert all(0 <= value < 100 for stroke in drawing for pair in stroke for value in pair)


def test_points_outside_the_picture_lie_on_its_border():
    assert back(CODEC, CODEC.encode([[[[-5, 200]]]])) == [[[[0, 99]]]]


def test_a_picture_has_ink_along_the_path_and_paper_elsewhere():
    picture = CODEC.picture([[ANGLE, None, DOT], None], 50)
    assert picture.shape == (2, 1, 50, 50)
    assert picture[0, 0, 5, 5:25].max() < 0.1
    assert picture[0, 0, 40, 40] < 0.1
    assert (picture[0] < 0.5).float().mean() < 0.1
    assert (picture[1] == 1).all()


def test_what_is_no_drawing_is_told():
    for wrong in ([[[3]]], [[1, 2]], ["strokes"]):
        with pytest.raises(UserError, match="must be a list of strokes"):
            CODEC.encode([wrong])
    with pytest.raises(UserError, match="give a size"):
        Strokes(100, 1)


@pytest.mark.real_data
def test_drawn_characters_keep_their_shape_at_few_words(real_data):
    with tarfile.open(real_data("omniglot-strokes") / "test-00000.tar") as tar:
        names = sorted(tar.getnames())[:400:16]  # a .json and its .png, in turn
        drawings = [json.load(tar.extractfile(name))["strokes"] for name in names]
        pictures = [np.array(Image.open(io.BytesIO(tar.extractfile(f"{n[:-4]}png").read()))) for n in names]
    codec = Strokes(105, bins=105)
    data = codec.encode(drawings)
    found = back(codec, data)
    points = [point for drawing in drawings for stroke in drawing for point in stroke]
    off = [beside([p for s in raw for p in s], kept) for raw, kept in zip(drawings, found, strict=True)]
    assert np.concatenate(off).mean() < 0.6
    assert data.length.sum() < 0.4 * len(points)
    ink, real = codec.picture(drawings, 105)[:, 0].numpy() < 0.5, ~np.stack(pictures).astype(bool)
    assert (ink & real).sum() / (ink | real).sum() > 0.9
