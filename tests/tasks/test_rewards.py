"""Rewards of a policy: an adversary learns to tell, fixed measures say what they should, DINO is read from a file."""

import numpy as np
import pytest
import scipy.linalg
import timm
import torch
import torch.nn.functional as F
from small_generators import small_generator

from mmmask.errors import UserError
from mmmask.metrics import Classifier
from mmmask.pretrained.model_files import Model, write
from tasks.feature_maps import MEAN, STD, ClassifierMaps, ViTMaps
from tasks.rewards import Adversarial, FrechetReward, Recognised

JUDGE = {"class_path": "mmmask.metrics.Classifier", "init_args": {"classes": 3, "channels": 1, "dim": 8}}


@pytest.fixture
def judge(tmp_path):
    torch.manual_seed(0)
    network = Classifier(3, 1, 8)
    network(torch.rand(64, 1, 12, 12))  # sets the statistics of its norms
    write(tmp_path / "judge", Model({"judge": network.eval()}, {"judge": JUDGE}), "")
    return tmp_path / "judge", network


def striped(count, upright, seed):
    """Noise with a stripe that is upright or lies, by class."""
    draw = torch.Generator().manual_seed(seed)
    images, places = torch.rand(count, 1, 12, 12, generator=draw) / 2, torch.randint(12, (count,), generator=draw)
    for image, place, turned in zip(images, places, upright, strict=True):
        (image[:, :, place] if turned else image[:, place]).fill_(1.0)
    return images


def test_the_adversary_learns_what_is_real_in_each_class(judge):
    """Stripes lie in class 0 and are upright in class 1: a drawn one is of the wrong class, and otherwise alike."""
    torch.manual_seed(0)
    reward = Adversarial(ClassifierMaps(judge[0]), classes=3, dim=16, depth=1)
    optimizer = torch.optim.Adam(reward.parameters(), lr=3e-3, betas=(0.5, 0.999))
    assert not [name for name, _ in reward.named_parameters() if "features" in name]
    for step in range(60):
        given = torch.arange(32) % 2
        loss = reward.train().loss(striped(32, given, 2 * step), striped(32, 1 - given, 2 * step + 1), given)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    given = torch.arange(64) % 2
    with torch.no_grad():
        real, drawn = (reward.eval()(striped(64, turned, 999), given) for turned in (given, 1 - given))
    assert ((real > 0) & (real < 1)).all()
    assert real.mean() > drawn.mean() + 0.1


def test_an_adversary_of_texts_compares_directions(judge):
    reward = Adversarial(ClassifierMaps(judge[0]), text=6).eval()
    images, vectors = torch.rand(4, 1, 12, 12), torch.randn(4, 5, 6)
    found = reward(images, vectors)
    torch.testing.assert_close(reward(images, 3 * vectors), found)
    torch.testing.assert_close(reward(images, vectors.flip(1)), found)
    assert (reward(images, torch.randn(4, 5, 6)) - found).abs().max() > 1e-4
    with pytest.raises(UserError, match="the generator follows 4 classes, the reward texts"):
        reward.check(small_generator("joint", 16))


def test_the_frechet_reward_is_how_much_an_image_lowers_the_distance(judge, tmp_path):
    """To a distance of images of which one counts a little more, as if it was there several times."""
    torch.manual_seed(1)
    images, given = torch.rand(60, 1, 12, 12) * torch.rand(60, 1, 1, 1), torch.arange(60) % 3
    with torch.no_grad():
        features = judge[1](images).features.double()
    spread = torch.randn(8, 8).double() * 0.1
    real = {"mu": features.mean(0).numpy() + 0.1, "sigma": (spread @ spread.T + 0.01 * torch.eye(8)).numpy()}
    np.savez(tmp_path / "real.npz", **real)

    def distance(weights):
        mean = weights @ features
        covariance = (features - mean).T @ (weights[:, None] * (features - mean))
        root = scipy.linalg.sqrtm(covariance.numpy() @ real["sigma"]).real
        trace = np.trace(covariance.numpy() + real["sigma"] - 2 * root)
        return np.square(mean.numpy() - real["mu"]).sum() + trace

    found = FrechetReward(tmp_path / "real.npz", judge[0])(images, given)
    even, little = torch.full((60,), 1 / 60).double(), 1e-5
    for number in (0, 7, 59):
        more = (1 - little) * even + little * F.one_hot(torch.tensor(number), 60)
        lowers = (distance(even) - distance(more)) / little
        assert float(found[number] - found.mean()) == pytest.approx(lowers, rel=2e-3)
    assert float(found.mean()) == pytest.approx(-distance(even), rel=1e-4)
    assert found.std() > 5e-4


def test_recognised_is_the_chance_of_the_class(judge):
    images, given = torch.rand(5, 1, 12, 12), torch.tensor([0, 1, 2, 2, 0])
    chances = judge[1](images).logits.softmax(1)
    torch.testing.assert_close(Recognised(judge[0])(images, given), chances[torch.arange(5), given])


def test_the_maps_of_a_classifier_are_its_layers(judge):
    maps = ClassifierMaps(judge[0])
    found = maps(torch.rand(2, 1, 12, 12))
    assert [tuple(seen.shape) for seen in found] == [
        (2, c, t) for c, t in zip((2, 4, 4, 8, 8), (144, 36, 36, 9, 9), strict=True)
    ]
    assert list(maps.channels) == [2, 4, 4, 8, 8]
    images = torch.rand(3, 1, 12, 12)
    torch.testing.assert_close(maps(images)[-1].mean(2), judge[1](images).features)


@pytest.fixture
def dino(tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    torch.save(network.state_dict(), tmp_path / "dino.pth")
    return tmp_path / "dino.pth", network.eval()


def test_a_transformer_of_timm_is_looked_into_after_its_blocks(dino):
    """Grey images become RGB of its size; the class token is added to each patch."""
    path, network = dino
    maps = ViTMaps(path, "vit_tiny_patch16_224", blocks=(1, 11)).eval()
    images = torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        found = maps(images)
        shown = F.interpolate(images, (224, 224), mode="area").expand(-1, 3, -1, -1)
        x = (shown - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        expected = network.forward_intermediates(x, indices=[1, 11], return_prefix_tokens=True, intermediates_only=True)
    assert [tuple(seen.shape) for seen in found] == [(2, 192, 196)] * 3
    for seen, (patches, first) in zip(found[1:], expected, strict=True):
        torch.testing.assert_close(seen, patches.flatten(2) + first.mT, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("network", "patches"), [("vit_tiny_patch16_224", 196), ("vit_reg", 196), ("vit_bare", 196)])
def test_registers_are_no_patches_and_a_class_token_need_not_be(tmp_path, network, patches, monkeypatch):
    kinds = {"vit_reg": {"reg_tokens": 4}, "vit_bare": {"class_token": False, "global_pool": "avg"}}
    sizes = {"num_classes": 0, "depth": 2, **kinds.get(network, {})}
    torch.manual_seed(0)
    plain = timm.create_model("vit_tiny_patch16_224", **sizes).eval()
    torch.save(plain.state_dict(), tmp_path / "weights.pth")
    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **given: make(name, **{**given, **sizes}))
    maps = ViTMaps(tmp_path / "weights.pth", "vit_tiny_patch16_224", blocks=(1,)).eval()
    images = torch.rand(2, 3, 224, 224)
    with torch.no_grad():
        seen = maps(images)[1]
        x = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        after = plain.forward_intermediates(x, indices=[1], intermediates_only=True)[0].flatten(2)
        assert seen.shape == (2, 192, patches)
        other = (seen - after).std(2).max()  # what was added is the same for all patches
    assert other < 1e-4


def test_larger_images_are_cropped_or_shrunk(dino):
    maps = ViTMaps(dino[0], "vit_tiny_patch16_224", blocks=(0,))
    images, kinds = torch.rand(1, 3, 256, 256), set()
    torch.manual_seed(0)
    shrunk = F.interpolate(images, (224, 224), mode="area")
    for _ in range(20):
        seen = maps._sized(images)
        kinds.add("shrunk" if torch.equal(seen, shrunk) else "cropped")
        assert (
            torch.equal(seen, shrunk)
            or (images[0, 0].unfold(0, 224, 1).unfold(1, 224, 1) == seen[0, 0]).all(-1).all(-1).any()
        )
    assert kinds == {"shrunk", "cropped"}


def test_what_is_missing_is_told(tmp_path, judge, dino):
    with pytest.raises(UserError, match=r"none\.pth does not exist: put there the weights"):
        ViTMaps(tmp_path / "none.pth")
    with pytest.raises(UserError, match="timm has no transformer 'vit_tiny_patch16_225'. Did you mean"):
        ViTMaps(dino[0], "vit_tiny_patch16_225")
    with pytest.raises(UserError, match="holds no weights of timm's vit_small_patch16_224.dino"):
        ViTMaps(dino[0])
    with pytest.raises(UserError, match="has 12 blocks, none of number 12"):
        ViTMaps(dino[0], "vit_tiny_patch16_224", blocks=(12,))
    with pytest.raises(UserError, match=r"real\.npz is no file of statistics"):
        FrechetReward(tmp_path / "real.npz", judge[0])
    with pytest.raises(UserError, match="give either classes"):
        Adversarial(ClassifierMaps(judge[0]))
