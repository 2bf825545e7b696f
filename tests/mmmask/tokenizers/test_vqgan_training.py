"""The convolutional tokenizer, its adversary and the perceptual loss."""

import pytest
import torch
import torch.nn.functional as F
from torchvision import models

from mmmask.errors import UserError
from mmmask.tokenizers import VQGAN, Adversary, EuclideanQuantizer, Perceptual
from mmmask.tokenizers.adversary import relative_pull


def vqgan(**changes):
    torch.manual_seed(0)
    sizes = {"image_size": 16, "width": 16, "multiples": (1, 2, 2), "blocks": 1}
    return VQGAN(EuclideanQuantizer(16, 8), **{**sizes, **changes})


def pictures(n=16, seed=0):
    """Smooth pictures of two colours."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0, 1, 16).expand(16, 16)
    slope, level = torch.rand(2, n, 3, 1, 1, generator=generator)
    return (slope * ramp + 0.5 * level) / 1.5


def test_it_learns_pictures_through_their_tokens():
    model, images = vqgan(), pictures()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    first = None
    for _ in range(60):
        found = model(images)
        loss = F.mse_loss(found.images, images)
        first = first or loss.item()
        optimizer.zero_grad()
        (loss + found.loss).backward()
        optimizer.step()
    model.eval()
    ids = model.encode(images)
    assert ids.shape == (16, 4, 4)
    assert F.mse_loss(model.decode(ids), images) < 0.1 * first
    assert len(ids.unique()) > 3


def test_the_published_shortcut_loses_what_came_in_and_ours_does_not():
    for published, lost in ((True, True), (False, False)):
        block = vqgan(published=published).encoder.levels[1][0]
        torch.nn.init.zeros_(block.conv2.weight)  # the branch is silent
        assert (block(torch.rand(1, 16, 4, 4)).abs().max() == 0) == lost


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: vqgan(image_size=18), "cannot be halved 2 times; choose a multiple of 4"),
        (lambda: vqgan(blocks=0), "must all be 1 or more"),
        (lambda: vqgan().encode(torch.rand(1, 1, 16, 16)), r"shape \(1, 16, 16\), expected \(3, 16, 16\)"),
        (lambda: vqgan().encode(torch.rand(1, 3, 20, 20)), r"shape \(3, 20, 20\), expected"),
        (lambda: Adversary(halvings=0), "halvings must be 1 or more"),
    ],
)
def test_what_makes_no_sense_is_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()


def judged(step=0, **options):
    torch.manual_seed(1)
    adversary, images = Adversary(width=8, halvings=2, **options), pictures()
    last = torch.nn.Parameter(torch.tensor(0.7))
    made = images * last
    verdict = adversary(images, made, F.mse_loss(made, images), last, step)
    return adversary, last, verdict


def test_each_loss_is_blind_to_the_other_side():
    adversary, last, verdict = judged()
    verdict.of_generator.backward(retain_graph=True)
    assert last.grad is not None
    assert all(parameter.grad is None for parameter in adversary.parameters())
    last.grad = None
    verdict.of_discriminator.backward()
    assert last.grad is None
    assert all(parameter.grad is not None for parameter in adversary.parameters())


def test_the_pull_of_the_adversary_is_a_share_of_that_of_the_reconstruction():
    for weight in (0.1, 0.5):
        _, last, verdict = judged(weight=weight)
        (pull,) = torch.autograd.grad(verdict.of_generator, last)
        images = pictures()
        (other,) = torch.autograd.grad(F.mse_loss(images * last, images), last)
        assert pull.abs().item() == pytest.approx(weight * other.abs().item(), rel=0.05)
    assert judged(step=3, start_step=4)[2].of_generator == 0
    w = torch.nn.Parameter(torch.tensor(2.0))
    assert relative_pull(3 * w, w, w).item() == pytest.approx(3.0, rel=1e-3)


def test_a_discriminator_learns_to_tell_them_apart():
    torch.manual_seed(0)
    adversary, images = Adversary(width=8, halvings=2), pictures()
    optimizer = torch.optim.Adam(adversary.parameters(), 1e-2)
    for _ in range(40):
        last = torch.nn.Parameter(torch.tensor(0.5))
        made = images * last
        verdict = adversary(images, made, F.mse_loss(made, images), last, 0)
        optimizer.zero_grad()
        verdict.of_discriminator.backward()
        optimizer.step()
    assert verdict.of_discriminator < 0.3


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file such as torchvision publishes, with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "squeezenet.pth"
    torch.save(models.squeezenet1_1(weights=None).state_dict(), path)
    return path


def test_the_perceptual_loss_sees_what_differs_and_is_no_part_of_checkpoints(weights):
    perceptual = Perceptual(weights, "squeezenet1_1", layers=(1, 4, 7), weight=2.0)
    images = F.interpolate(torch.rand(2, 3, 8, 8), 64, mode="bilinear")
    blurred = F.avg_pool2d(images, 5, 1, 2)
    noisy = (images + 0.3 * torch.randn_like(images)).requires_grad_()
    assert perceptual(images, images) == 0
    assert 0 < perceptual(images, blurred) < perceptual(images, noisy)
    perceptual(images, noisy).backward()
    assert noisy.grad.abs().max() > 0
    assert not perceptual.state_dict()
    assert not list(perceptual.parameters())
    assert perceptual(images[:, :1], blurred[:, :1]) > 0  # grey pictures too


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": "vgg61"}, "no network 'vgg61'.*Did you mean"),
        ({"network": "resnet18"}, "no layer"),
        ({"network": "squeezenet1_1", "layers": (99,)}, "no layer 99"),
        ({"network": "squeezenet1_0", "layers": (1,)}, "holds no weights of torchvision's squeezenet1_0"),
        ({"network": "squeezenet1_1", "layers": (1,), "weights": "none.pth"}, "none.pth does not exist"),
    ],
)
def test_what_the_perceptual_loss_cannot_use_is_told(weights, options, words):
    with pytest.raises(UserError, match=words):
        Perceptual(**{"weights": weights, **options})
