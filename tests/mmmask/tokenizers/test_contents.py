"""Contents: what raw data of a kind are to a network, and how wrong a reconstruction is."""

import pytest
import torch
import torch.nn.functional as F

from mmmask.errors import UserError
from mmmask.tokenizers import ClassMap, CosineQuantizer, Features, Intensity, Normals, Pictures, ViTTokenizer


def measured(content, found, data, channels=3):
    measures = content.measures(channels)
    for metric in measures.values():
        metric.update(found, data)
    return {name: float(metric.compute()) for name, metric in measures.items()}


def learned(content, data, channels, patch=4, steps=100):
    """A tokenizer that has learned these data."""
    torch.manual_seed(0)
    size = data.shape[-1]
    tokenizer = ViTTokenizer(CosineQuantizer(32, 8), size, channels, patch, 16, heads=2, width=8, content=content)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=8e-3)
    for _ in range(steps):
        reconstruction = tokenizer(data)
        optimizer.zero_grad()
        (content.loss(reconstruction.images, data) + reconstruction.loss).backward()
        optimizer.step()
    return tokenizer.eval()


def blocks(count, levels, size=8):
    """Maps of flat quarters, each of one of so many levels."""
    ids = torch.randint(levels, (count, 1, 2, 2), generator=torch.Generator().manual_seed(1)).float()
    return F.interpolate(ids, size).squeeze(1).long()


def test_class_maps_are_learned_through_their_tokens():
    data = blocks(12, 3)
    tokenizer = learned(ClassMap(), data, 3)
    found = tokenizer.decode(tokenizer.encode(data))
    assert found.dtype == torch.long
    assert found.shape == data.shape
    commonest = data.flatten().bincount().max() / data.numel()
    assert measured(ClassMap(), found, data)["accuracy"] > max(0.95, commonest)


def test_normals_are_learned_through_their_tokens_and_have_length_one():
    data = F.normalize(torch.eye(3)[blocks(12, 3)].movedim(-1, 1) + 0.1, dim=1)
    tokenizer = learned(Normals(), data, 3)
    found = tokenizer.decode(tokenizer.encode(data))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(12, 8, 8))
    mean = F.normalize(data.mean((0, 2, 3), keepdim=True), dim=1).expand_as(data)
    assert measured(Normals(), found, data)["angle"] < measured(Normals(), mean, data)["angle"] / 2


def test_feature_maps_are_learned_at_a_token_for_each_place():
    data = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))[blocks(12, 4, size=4)].movedim(-1, 1)
    tokenizer = learned(Features(), data, 6, patch=1)
    assert tokenizer.encode(data).shape == (12, 4, 4)
    assert measured(Features(), tokenizer.decode(tokenizer.encode(data)), data)["cosine"] < 0.1


def test_depth_of_any_range_is_learned_in_its_own_units():
    content, data = Intensity(2.0, 10.0, "smooth_l1"), 2 + 2 * blocks(12, 4)[:, None].float()
    tokenizer = learned(content, data, 1)
    found = tokenizer.decode(tokenizer.encode(data))
    assert 2 <= found.min() < 4 < 6 < found.max() <= 10
    assert measured(content, found, data)["mse"] < data.var() / 5


@pytest.mark.parametrize(
    ("content", "raw", "read"),
    [
        (Intensity(), torch.tensor([0, 255], dtype=torch.uint8), [0.0, 1.0]),
        (Intensity(2, 10), torch.tensor([0, 255], dtype=torch.uint8), [2.0, 10.0]),
        (Normals(), torch.tensor([0, 255], dtype=torch.uint8), [-1.0, 1.0]),
        (ClassMap(), torch.tensor([[[[0, 5]]]], dtype=torch.uint8), [[[0, 5]]]),
        (ClassMap(), torch.tensor([[[0, 5]]]), [[[0, 5]]]),
    ],
)
def test_what_a_batch_holds_is_read_on_the_scale_of_the_kind(content, raw, read):
    assert content.read(raw).tolist() == read
    assert content.read(content.read(raw)).tolist() == read


def test_the_error_of_classes_is_that_of_all_pixels_and_of_the_classes_that_occur():
    data = torch.tensor([[[0, 0], [0, 1]], [[0, 0], [0, 0]]])
    found = torch.tensor([[[0, 0], [1, 1]], [[0, 0], [0, 0]]])
    errors = measured(ClassMap(), found, data)
    assert errors["accuracy"] == 7 / 8
    assert errors["miou"] == pytest.approx((6 / 7 + 1 / 2) / 2)  # class 2 does not occur


def test_a_place_without_a_normal_counts_nowhere():
    data = torch.zeros(1, 3, 2, 2)
    data[:, 2, 0] = 1
    output = torch.zeros(1, 3, 2, 2)
    output[:, 2] = 3.0
    assert Normals().loss(output, data) == 0
    output[:, :, 0] = torch.tensor([1.0, 0, 0])[:, None]
    assert Normals().loss(output, data) == 1
    assert measured(Normals(), output, data)["angle"] == pytest.approx(90)


def test_smooth_l1_is_linear_for_large_errors_and_square_for_small_ones():
    content, zero = Intensity(error="smooth_l1"), torch.zeros(1)
    losses = [float(content.loss(torch.tensor([error]), zero)) for error in (0.02, 0.04, 0.4, 0.8)]
    assert losses[1] / losses[0] == pytest.approx(4)
    assert losses[3] - losses[2] == pytest.approx(0.4)


def test_classes_have_colours_and_the_first_is_black():
    picture = ClassMap().picture(torch.arange(6).view(1, 2, 3))
    assert picture.shape == (1, 3, 2, 3)
    assert 0 <= picture.min() <= picture.max() <= 1
    assert not picture[:, :, 0, 0].any()
    assert len({tuple(colour.tolist()) for colour in picture[0].flatten(1).T}) == 6


def test_a_class_that_there_is_not_and_wrong_settings_are_named():
    tokenizer = ViTTokenizer(CosineQuantizer(32, 8), 8, 3, 4, 16, heads=2, width=8, content=ClassMap())
    with pytest.raises(UserError, match="a pixel of class 3, but 3 classes"):
        tokenizer.encode(torch.full((1, 8, 8), 3))
    with pytest.raises(UserError, match=r"shape \(3, 4, 4\), expected \(3, 8, 8\)"):
        tokenizer.encode(torch.zeros(1, 4, 4, dtype=torch.long))
    with pytest.raises(UserError, match="choose mse or smooth_l1"):
        Intensity(error="l2")
    with pytest.raises(UserError, match="choose cosine or mse"):
        Features(error="l2")
    with pytest.raises(UserError, match=r"low \(1\) must be below high \(1\)"):
        Intensity(low=1.0)


def test_a_codec_of_class_maps_takes_maps_and_marks_absent_ones():
    data = blocks(6, 3)
    codec = Pictures(learned(ClassMap(), data, 3, steps=1))
    torch.testing.assert_close(codec.seen(data), ClassMap().picture(data))
    as_bytes = data[:, None].to(torch.uint8)
    assert (codec.encode(as_bytes).ids == codec.encode(data).ids).all()
    data[2] = -1
    found = codec.encode(data)
    assert found.length.tolist() == [4, 4, 0, 4, 4, 4]
    decoded = codec.decode(torch.from_numpy(found.ids), torch.from_numpy(found.length))
    assert decoded.shape == data.shape
    assert (decoded == -1).flatten(1).all(1).tolist() == [n == 2 for n in range(6)]
