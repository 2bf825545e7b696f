"""Boxes as words, and what is left of broken ones."""

import json

import numpy as np
import pytest
import torch

from datamodules.shapes_world import SHAPES, ShapesWorld
from mmmask.errors import UserError
from mmmask.tokenizers import Boxes, learn_words

NAMES = ["wall", *SHAPES]
CODEC = Boxes(NAMES, size=32, most=3)
V0 = CODEC.sentinels[1]
NOTHING = [-1] * 5


def back(codec, data):
    return codec.decode(torch.from_numpy(data.ids), torch.from_numpy(data.length))


def decoded(*words):
    return CODEC.decode(torch.tensor([words]), torch.tensor([len(words)]))[0].tolist()


def a_box(kind, *corners):
    return [V0 + 33 * which + corner for which, corner in enumerate(corners)] + [V0 + 4 * 33 + kind]


def test_boxes_of_scenes_come_back():
    boxes = torch.from_numpy(ShapesWorld(32).scenes(np.arange(50)).boxes)
    data = CODEC.encode(boxes)
    ordered = torch.stack([torch.stack(sorted(rows, key=lambda row: bool(row[0] < 0))) for rows in boxes])
    assert torch.equal(back(CODEC, data), ordered.long())
    assert (data.length == 5 * (boxes[..., 0] >= 0).sum(1).numpy()).all()
    assert set(data.length.tolist()) == {5, 10, 15}


def test_a_box_is_four_coordinates_and_a_class_and_one_chunk():
    data = CODEC.encode(torch.tensor([[NOTHING, [2, 0, 5, 9, 32], [1, 3, 4, 5, 6]]]))
    assert data.ids[0, :10].tolist() == a_box(2, 0, 5, 9, 32) + a_box(1, 3, 4, 5, 6)
    assert data.length.tolist() == [10]
    assert data.chunks[0, :10].tolist() == [0] * 5 + [1] * 5
    assert data.chunks.max() < CODEC.length


def test_no_boxes_are_absent_and_too_many_left_out():
    many = torch.tensor([[NOTHING] * 5, [[1, i, i, i + 1, i + 1] for i in range(5)]])
    data = CODEC.encode(many)
    assert data.length.tolist() == [0, 15]
    assert back(CODEC, data)[0].tolist() == [NOTHING] * 3
    assert torch.equal(back(CODEC, data)[1], many[1, :3])


def test_coordinates_are_as_exact_as_bins():
    codec = Boxes(NAMES, size=500, bins=64)
    boxes = torch.tensor([[[1, 0, 17, 333, 500], [2, -9, 100, 501, 777]]])
    found = back(codec, codec.encode(boxes))[:, :2]
    assert (found - boxes.clamp(0, 500)).abs().max() <= 500 / 63 / 2 + 0.5
    assert found[0, 0, [1, 4]].tolist() == [0, 500]


def test_a_row_may_be_a_gap_that_an_answer_fills():
    boxes = torch.tensor([[[2, 0, 5, 9, 32], [-2, 0, 0, 0, 0]], [[-2] * 5, [1, 1, 1, 2, 2]]])
    known = CODEC.encode(boxes)
    assert known.length.tolist() == [6, 6]
    assert CODEC.gaps(known).tolist() == [1, 1]
    answer = torch.tensor([[1, *a_box(3, 1, 2, 3, 4), 2]] * 2)
    found = back(CODEC, CODEC.fill(known, answer, torch.tensor([7, 7])))
    assert found[:, :2].tolist() == [[[2, 0, 5, 9, 32], [3, 1, 2, 3, 4]], [[3, 1, 2, 3, 4], [1, 1, 1, 2, 2]]]


def test_broken_boxes_are_left_out():
    whole = a_box(1, 2, 3, 4, 5)
    kept = [[1, 2, 3, 4, 5], NOTHING, NOTHING]
    assert decoded(*whole[:4]) == [NOTHING] * 3
    assert decoded(*whole[2:], *whole) == kept
    assert decoded(0, 1, *whole, *whole[:3]) == kept
    assert decoded(*whole[:2], *whole) == kept
    assert decoded(*a_box(1, 4, 3, 2, 5), *whole) == kept
    anything = torch.randint(CODEC.vocab_size, (50, 15), generator=torch.Generator().manual_seed(0))
    assert CODEC.decode(anything, torch.full((50,), 15)).shape == (50, 3, 5)


def test_boxes_may_be_written_in_the_words_of_texts():
    content = json.loads(learn_words(["a red dog"], 300, sentinels=20, coordinates=33, classes=NAMES).to_str())
    codec = Boxes(NAMES, size=32, most=3, vocabulary=content)
    boxes = torch.tensor([[[2, 0, 5, 9, 32], [1, 3, 4, 5, 6], NOTHING]])
    data = codec.encode(boxes)
    assert codec.words.decode(data.ids[0, :10]) == "v0=0 v1=5 v2=9 v3=32 square v0=3 v1=4 v2=5 v3=6 circle"
    assert data.chunks[0, :10].tolist() == [0] * 5 + [1] * 5
    assert torch.equal(back(codec, data), boxes)
    assert codec.modality("det").sentinels == (4, 24)
    assert codec.portable({"init_args": {"vocabulary": "words.json"}})["init_args"]["vocabulary"] == content
    codes = codec.codes()
    assert torch.equal(codes[data.ids[0, 0]], CODEC.codes()[V0])
    assert codes[[0, 4, codec.words.number("square")]].isnan().all()
    with pytest.raises(UserError, match="no word 'cat'.*--classes"):
        Boxes(["cat"], size=32, vocabulary=content)
    with pytest.raises(UserError, match="no word 'v0=33'.*--coordinates"):
        Boxes(NAMES, size=40, vocabulary=content)


def test_what_is_no_box_is_told():
    with pytest.raises(UserError, match="a box of class 9, and names for 0 to 5"):
        CODEC.encode(torch.tensor([[[9, 0, 0, 1, 1]]]))
    with pytest.raises(UserError, match="not \\(B, K, 5\\)"):
        CODEC.encode(torch.zeros(2, 4))
    with pytest.raises(UserError, match="give names"):
        Boxes([], 32)
