"""Codecs of pictures: raw data to tokens and back."""

import numpy as np
import pytest
import torch

from mmmask.errors import UserError
from mmmask.masking import Component, DirichletMask
from mmmask.tokenizers import CosineQuantizer, Patches, Pictures, ViTTokenizer


def pictures(**settings):
    torch.manual_seed(0)
    tokenizer = ViTTokenizer(CosineQuantizer(32, 8), 8, 3, 4, dim=16, heads=2, width=8)
    tokenizer(torch.rand(16, 3, 8, 8))
    return Pictures(tokenizer, **settings)


def test_pictures_become_the_words_of_the_tokenizer_and_pictures_again():
    codec, raw = pictures(), torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    data = codec.encode(raw)
    assert (data.ids == codec.tokenizer.encode(raw / 255).flatten(1).numpy()).all()
    assert data.length.tolist() == [4] * 5
    assert (codec.encode(raw / 255).ids == data.ids).all()
    decoded = codec.decode(torch.from_numpy(data.ids), torch.from_numpy(data.length))
    assert decoded.equal(codec.tokenizer.decode(codec.tokenizer.encode(raw / 255)))


def test_several_resolutions_are_made_of_one_entry():
    small, large = pictures(shrink=2), torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    averages = torch.nn.functional.avg_pool2d(large / 255, 2)
    assert (small.encode(large).ids == pictures().encode(averages).ids).all()
    assert (small.encode(averages).ids == pictures().encode(averages).ids).all()  # as it draws them itself
    absent = torch.where(torch.tensor([0, 1, 0])[:, None, None, None] == 1, torch.nan, large / 255)
    assert small.encode(absent).length.tolist() == [4, 0, 4]
    for codec, side in ((small, 32), (pictures(), 16)):
        with pytest.raises(UserError, match="images have the shape"):
            codec.encode(torch.rand(3, 3, side, side))
    with pytest.raises(UserError, match="shrink is 0"):
        pictures(shrink=0)


@pytest.mark.parametrize("shape", [(3, 2, 2), (3, 4)])
def test_ready_ids_stay_as_they_are_and_those_of_minus_one_are_absent(shape):
    ids = torch.randint(0, 32, shape)
    ids[1] = -1
    data = pictures().encode(ids)
    assert data.length.tolist() == [4, 0, 4]
    assert data.ids[[0, 2]].tolist() == ids.flatten(1)[[0, 2]].tolist()
    assert data.ids.min() >= 0


def test_an_absent_picture_stays_absent_there_and_back():
    codec, raw = pictures(), torch.rand(3, 3, 8, 8)
    raw[1] = torch.nan
    data = codec.encode(raw)
    assert data.length.tolist() == [4, 0, 4]
    decoded = codec.decode(torch.from_numpy(data.ids), torch.from_numpy(data.length))
    assert decoded.isnan().flatten(1).all(1).tolist() == [False, True, False]
    assert codec.encode(torch.full((2, 3, 8, 8), torch.nan)).length.tolist() == [0, 0]


@pytest.mark.parametrize("wrong", [32, -1])
def test_an_id_that_is_no_word_is_named(wrong):
    ids = torch.zeros(2, 4, dtype=torch.long)
    ids[1, 2] = wrong
    with pytest.raises(UserError, match=f"the id {wrong} is no word of a tokenizer of 32"):
        pictures().encode(ids)
    with pytest.raises(UserError, match=f"the id {wrong} is no word"):
        pictures().decode(ids, torch.tensor([4, 4]))


def test_the_tokenizer_of_a_codec_never_learns():
    codec = pictures().train()
    assert not any(module.training for module in codec.tokenizer.modules())
    assert not any(weight.requires_grad for weight in codec.parameters())


def test_the_modality_is_that_of_the_tokenizer():
    modality = pictures(source="photo").modality("rgb")
    assert (modality.name, modality.kind, modality.length, modality.vocab_size) == ("rgb", "grid", 4, 32)
    assert pictures(source="photo").source == "photo"


def test_patches_lose_nothing():
    codec, raw = Patches(8, 3, 4), torch.rand(5, 3, 8, 8)
    data = codec.encode(raw)
    modality = codec.modality("rgb")
    assert data.values.shape == (5, modality.length, modality.channels) == (5, 4, 48)
    assert data.ids.tolist() == [[0, 1, 2, 3]] * 5
    torch.testing.assert_close(codec.decode(data.values, torch.from_numpy(data.length)), raw)
    as_bytes = (raw * 255).round().to(torch.uint8)
    torch.testing.assert_close(codec.encode(as_bytes).values, codec.encode(as_bytes / 255).values)


def test_a_patch_holds_rows_of_columns_of_channels_standardised():
    raw = torch.rand(1, 3, 8, 8)
    second = Patches(8, 3, 4).encode(raw).values[0, 1]  # top right
    torch.testing.assert_close(second.view(4, 4, 3), (raw[0, :, :4, 4:].permute(1, 2, 0) - 0.5) / 0.25)


def test_patches_may_be_standardised_by_channel():
    codec = Patches(4, 3, 4, mean=[0.0, 0.5, 1.0], spread=[1.0, 0.5, 0.25])
    pictures = torch.tensor([0.5, 0.25, 0.5]).view(1, 3, 1, 1).expand(-1, -1, 4, 4)
    data = codec.encode(pictures)
    assert data.values[0, 0, :3].tolist() == [0.5, -0.5, -2.0]
    assert torch.equal(codec.decode(data.values, torch.tensor([1])), pictures)
    with pytest.raises(UserError, match="each of 3 channels"):
        Patches(4, 3, 4, mean=[0.0, 0.5])


def test_patches_of_an_absent_picture_are_absent_and_no_nan():
    raw = torch.rand(2, 3, 8, 8)
    raw[0] = torch.nan
    data = Patches(8, 3, 4).encode(raw)
    assert data.length.tolist() == [0, 4]
    assert not data.values.isnan().any()
    decoded = Patches(8, 3, 4).decode(data.values, torch.from_numpy(data.length))
    assert decoded.isnan().flatten(1).all(1).tolist() == [True, False]


def test_pictures_of_another_size_are_refused():
    with pytest.raises(UserError, match=r"shape \(3, 4, 4\), expected \(3, 8, 8\)"):
        Patches(8, 3, 4).encode(torch.rand(1, 3, 4, 4))
    with pytest.raises(UserError, match="image_size 8 must be a multiple of patch"):
        Patches(8, 3, 3)


def test_patches_and_words_are_masked_side_by_side():
    words, patches, raw = pictures(), Patches(8, 3, 4), torch.rand(3, 3, 8, 8)
    data = {"rgb": patches.encode(raw), "tok_rgb": words.encode(raw)}
    modalities = [patches.modality("rgb"), words.modality("tok_rgb")]
    mask = DirichletMask(modalities, [Component(known={"rgb": 1.0}, asked=1.0)], known=(4, 4), asked=(3, 3))
    question = mask(data, np.arange(3, dtype=np.uint64))
    assert question.known.values.equal(data["rgb"].values)
    assert question.asked.modality.eq(1).all()
    assert question.wanted.equal(torch.from_numpy(data["tok_rgb"].ids).gather(1, question.asked.position))
