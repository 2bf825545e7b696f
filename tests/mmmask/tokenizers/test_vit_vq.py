"""The image tokenizer: image to tokens to image."""

import pytest
import torch
import torch.nn.functional as F

from mmmask.errors import UserError
from mmmask.tokenizers import CosineQuantizer, FiniteScalarQuantizer, ViTTokenizer


def tiny_tokenizer(quantizer=None, **settings):
    torch.manual_seed(0)
    settings = {"image_size": 8, "channels": 1, "patch": 4, "dim": 16, "heads": 2, "width": 8} | settings
    return ViTTokenizer(quantizer or CosineQuantizer(32, 8), **settings)


def train(tokenizer, images, steps):
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=4e-3)
    for _ in range(steps):
        reconstruction = tokenizer(images)
        optimizer.zero_grad()
        (F.mse_loss(reconstruction.images, images) + reconstruction.loss).backward()
        optimizer.step()
    return tokenizer


@pytest.mark.parametrize("quantizer", [CosineQuantizer(32, 8), FiniteScalarQuantizer([8, 6, 5])])
def test_decoding_the_encoded_ids_gives_the_forward_pass(quantizer):
    images = torch.rand(16, 3, 16, 8 * 2)
    tokenizer = train(tiny_tokenizer(quantizer, image_size=16, channels=3, patch=8), images, 3).eval()
    reconstruction = tokenizer(images)
    ids = tokenizer.encode(images)
    assert ids.shape == (16, 2, 2)
    assert ids.equal(reconstruction.ids)
    torch.testing.assert_close(tokenizer.decode(ids), reconstruction.images.clamp(0, 1))


@pytest.mark.parametrize("quantizer", [CosineQuantizer(32, 8), FiniteScalarQuantizer([8, 5, 5])])
def test_a_tiny_batch_is_overfitted(quantizer):
    images = F.interpolate(torch.rand(16, 1, 4, 4), 8)
    tokenizer = tiny_tokenizer(quantizer)
    before = F.mse_loss(tokenizer.decode(tokenizer.encode(images)), images)
    train(tokenizer, images, 300)
    after = F.mse_loss(tokenizer.decode(tokenizer.encode(images)), images)
    assert after < before / 5
    assert after < images.var() / 5


def test_encoding_in_training_mode_changes_nothing_and_gives_the_ids_of_evaluation():
    images = torch.rand(8, 1, 8, 8)
    tokenizer = train(tiny_tokenizer(), images, 3)
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    ids = tokenizer.train().encode(images)
    assert all(value.equal(before[name]) for name, value in tokenizer.state_dict().items())
    assert ids.equal(tokenizer.eval().encode(images))


def test_a_loaded_state_gives_the_same_tokens_and_images():
    images = torch.rand(8, 1, 8, 8)
    tokenizer = train(tiny_tokenizer(), images, 3)
    torch.manual_seed(1)
    other = ViTTokenizer(CosineQuantizer(32, 8), 8, 1, 4, 16, 1, 2, 8)
    assert not other.encode(images).equal(tokenizer.encode(images))
    other.load_state_dict(tokenizer.state_dict())
    assert other.encode(images).equal(tokenizer.encode(images))
    assert other.decode(other.encode(images)).equal(tokenizer.decode(tokenizer.encode(images)))


def test_gradients_reach_every_weight():
    tokenizer = tiny_tokenizer()
    images = torch.rand(8, 1, 8, 8)
    train(tokenizer, images, 2)  # weights that start at zero let nothing through at first
    tokenizer.zero_grad()
    reconstruction = tokenizer(images)
    (F.mse_loss(reconstruction.images, images) + reconstruction.loss).backward()
    assert [n for n, p in tokenizer.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"image_size": 30}, "image_size 30 does not divide into patches of 4"),
        ({"patch": 3, "image_size": 9}, "patch is 3"),
        ({"dim": 15}, "dim 15 does not divide into 2 heads"),
        ({"depth": -1}, "depth 0 or more"),
    ],
)
def test_impossible_sizes_are_named(settings, named):
    with pytest.raises(UserError, match=named):
        tiny_tokenizer(**settings)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 16, 16), (1, 8, 8)])
def test_images_of_another_size_are_refused(shape):
    with pytest.raises(UserError, match="expected \\(1, 8, 8\\)"):
        tiny_tokenizer()(torch.rand(shape))


def test_ids_of_another_grid_are_refused():
    with pytest.raises(UserError, match="expected \\(B, 2, 2\\)"):
        tiny_tokenizer().decode(torch.zeros(1, 4, 4, dtype=torch.long))
