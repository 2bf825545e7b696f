"""Data of every codec can be masked: what is known and what is asked are the sample's own tokens. What is absent has
none."""

import inspect
import json

import numpy as np
import pytest
import torch

from mmmask import tokenizers
from mmmask.masking import Component, DirichletMask
from mmmask.tokenizers import (
    Bitmap,
    Boxes,
    Choice,
    Codec,
    CosineQuantizer,
    Metadata,
    Palette,
    Patches,
    Pictures,
    PublishedTokens,
    Strokes,
    Vectors,
    VectorTokenizer,
    ViTTokenizer,
    Words,
    learn_words,
)

ABSENT = 2  # of the four samples of each codec
CAPTIONS = ["a large red circle, bottom left", "a small green ring", "", "a ring in front of a large red cross, top"]
WRITTEN = json.loads(learn_words(CAPTIONS, 400, sentinels=20, coordinates=64, classes=["a", "b"]).to_str())


def words():
    return Words(json.loads(learn_words(CAPTIONS, 120, sentinels=20).to_str()), 20), CAPTIONS


def choice():
    return Choice(["one", "two", "three"]), ["two", "three", "", "one"]


def rows_of_boxes(classes):
    rows = torch.randint(0, 16, (4, 5, 5), generator=torch.Generator().manual_seed(0))
    rows[..., 0] %= classes
    rows[..., 3:] += 16  # a box ends after it begins
    rows[ABSENT] = -1
    return rows


def boxes():
    return Boxes(["a", "b", "c"], 32, most=5), rows_of_boxes(3)


def boxes_in_words():
    return Boxes(["a", "b"], 32, most=5, vocabulary=WRITTEN), rows_of_boxes(2)


def metadata():
    entries = {name: [0, 63, 64] for name in "abcdef"}
    return Metadata(WRITTEN, entries), [dict.fromkeys("abcdef", 7), {"b": 3, "f": 60}, None, {"a": 1}]


def palette():
    return Palette(WRITTEN, 5, levels=64), with_nan(3, 8, 8)


def strokes():
    return Strokes(32, 32, 12), [[[[1, 2], [9, 2], [9, 9]], [[5, 5]]], [[[0, 0], [31, 31]]] * 4, None, [[[7, 7]]] * 5]


def with_nan(*shape):
    numbers = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    numbers[ABSENT].view(-1)[-1] = torch.nan
    return numbers


def bitmap():
    return Bitmap(8, 2, "ink"), with_nan(1, 8, 8)


def patches():
    return Patches(8, 1, 4), with_nan(1, 8, 8)


def pictures():
    return Pictures(ViTTokenizer(CosineQuantizer(16, 4), 8, 1, 4, dim=16, heads=2, width=8)), with_nan(1, 8, 8)


def vectors():
    return Vectors(VectorTokenizer(CosineQuantizer(16, 4), 6, tokens=3, width=16)), with_nan(6)


def published():
    ids = torch.randint(0, 9, (4, 14, 14), generator=torch.Generator().manual_seed(0))
    ids[ABSENT] = -1
    return PublishedTokens("tok_clip@224"), ids


ASKED = [words, choice, boxes, boxes_in_words, metadata, palette, strokes, bitmap, pictures, vectors]
ALL = [*ASKED, patches, published]


def test_every_codec_is_looked_at_here():
    kinds = {kind for kind in vars(tokenizers).values() if inspect.isclass(kind) and issubclass(kind, Codec)}
    assert {type(make()[0]) for make in ALL} == {kind for kind in kinds if not inspect.isabstract(kind)}


@pytest.mark.parametrize("make", ALL)
def test_what_is_absent_has_no_tokens_and_decodes_to_what_is_absent(make):
    codec, raw = make()
    data = codec.encode(raw)
    there = [n != ABSENT for n in range(4)]
    assert (data.length > 0).tolist() == there
    assert data.ids.min() >= 0
    assert data.values is None or not data.values.isnan().any()
    tokens = torch.from_numpy(data.ids) if data.values is None else data.values
    decoded = codec.decode(tokens, torch.from_numpy(data.length))
    assert (codec.encode(decoded).length > 0).tolist() == there


def whole(tokens, ids, row):
    """Position -> word of what is meant."""
    meant = tokens.valid[row]
    return dict(zip(tokens.position[row][meant].tolist(), ids[row][meant].tolist(), strict=True))


@pytest.mark.parametrize("make", ASKED)
def test_known_and_asked_make_the_sample(make):
    codec, raw = make()
    data, modality = codec.encode(raw), codec.modality("it")
    mask = DirichletMask([modality], [Component(1.0, 1.0)], known=(1, modality.length), asked=(99, 99))
    partly = 0
    for seed in range(8):
        question = mask({"it": data}, np.arange(4, dtype=np.uint64) + 100 * seed)
        for row in range(4):
            mine = [part[row : row + 1] for part in (data.ids, data.length)]
            known = whole(question.known, question.known.ids, row)
            asked = whole(question.asked, question.wanted, row)
            partly += bool(known and asked)
            if modality.kind != "sequence":
                assert not known.keys() & asked.keys()
                assert known | asked == dict(enumerate(mine[0][0, : mine[1][0]].tolist()))
            elif mine[1][0]:
                answer = torch.tensor([[modality.sentinels[0], *asked.values()]])
                made = codec.fill(alone(data, known), answer, torch.tensor([1 + len(asked)]))
                assert made.length == mine[1]
                assert (made.ids == mine[0]).all()
                if data.chunks is not None and known:
                    assert kept_whole(codec, known, data.chunks[row], mine[0][0], mine[1][0])
            else:
                assert not known
                assert not asked
    assert partly or modality.length == 1


def alone(data, known):
    """What is known of a sample as data of its own."""
    ids = np.zeros((1, data.ids.shape[1]), dtype=np.int64)
    ids[0, : len(known)] = [known[position] for position in range(len(known))]
    return data._replace(ids=ids, length=np.array([len(known)]), chunks=None)


def kept_whole(codec, known, chunks, ids, length):
    """Whether known words, gaps aside, are whole chunks."""
    kept = [word for word in known.values() if not codec.sentinels[0] <= word < codec.sentinels[1]]
    pieces = [ids[:length][chunks[:length] == number].tolist() for number in np.unique(chunks[:length])]
    for piece in pieces:
        if kept[: len(piece)] == piece:
            kept = kept[len(piece) :]
    return not kept
