"""A tokenizer whose decoder draws."""

import pytest
import torch
import torch.nn.functional as F

from mmmask.errors import UserError
from mmmask.tokenizers import ClassMap, CosineQuantizer, DiffusionTokenizer


def small(**settings):
    torch.manual_seed(0)
    settings = {"image_size": 8, "channels": 1, "patch": 4, "dim": 16, "heads": 2, "width": 8, "steps": 8} | settings
    return DiffusionTokenizer(CosineQuantizer(16, 8), **settings)


def blocks(count):
    """Images of flat quarters, dark or light."""
    draw = torch.Generator().manual_seed(1)
    return F.interpolate(torch.randint(2, (count, 1, 2, 2), generator=draw).float() * 0.8 + 0.1, 8)


@pytest.fixture(scope="module")
def trained():
    tokenizer, images = small(), blocks(32)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=8e-3)
    for _ in range(150):
        reconstruction = tokenizer(images)
        optimizer.zero_grad()
        (F.mse_loss(reconstruction.images, images) + reconstruction.loss).backward()
        optimizer.step()
    return tokenizer.eval()


def test_what_is_drawn_for_the_tokens_of_images_is_like_them(trained):
    images = blocks(32)
    found = trained.decode(trained.encode(images))
    assert F.mse_loss(found, images) < F.mse_loss(images.mean(0).expand_as(images), images) / 3
    assert 0 <= found.min() <= found.max() <= 1


def test_a_draw_is_a_function_of_ids_and_seed_alone(trained):
    ids = trained.encode(blocks(6))
    drawn = trained.decode(ids, range(6))
    torch.manual_seed(7)
    torch.testing.assert_close(trained.decode(ids[3:], [3, 4, 5]), drawn[3:])
    assert trained.decode(ids, range(6)).equal(drawn)
    assert trained.decode(ids).equal(trained.decode(ids, [0] * 6))
    same = ids[:1].expand(2, -1, -1)
    assert not trained.decode(same, [0, 1]).diff(dim=0).eq(0).all()


def test_without_noise_nothing_is_to_be_done():
    pixels = torch.rand(2, 1, 8, 8)
    decoder = small().decoder
    found = decoder(pixels, torch.zeros(2, 16, 2, 2), torch.zeros(2))
    torch.testing.assert_close(found, pixels)


def test_gradients_reach_every_weight():
    tokenizer, images = small(), torch.rand(8, 1, 8, 8)
    for _ in range(2):  # weights that start at zero let nothing through at first
        reconstruction = tokenizer(images)
        (F.mse_loss(reconstruction.images, images) + reconstruction.loss).backward()
        with torch.no_grad():
            for weight in tokenizer.parameters():
                weight -= 0.01 * weight.grad.sign()
    assert [n for n, p in tokenizer.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_classes_and_no_steps_are_refused():
    with pytest.raises(UserError, match="content must be an Intensity"):
        small(content=ClassMap())
    with pytest.raises(UserError, match="steps is 0"):
        small(steps=0)
