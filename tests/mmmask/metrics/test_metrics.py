"""Scores of images, against their formulas and known cases."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from mmmask.errors import UserError
from mmmask.metrics import Classifier, ImageScores, Inception, precision_recall
from mmmask.metrics.extractors import Extractor, Look


class Pixels(Extractor):
    """Features are the pixels; the class is that of the brightest of the first three."""

    dim = 4

    def forward(self, images):
        flat = images.flatten(1)
        return Look(flat, 20 * flat[:, :3])


def images(n, shift=0.0, seed=0):
    return torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(seed)) + shift


def test_frechet_distance_is_its_formula_and_the_same_from_a_file(tmp_path):
    real, made = images(400), images(300, 0.2, 1) ** 2
    scores = ImageScores(Pixels())
    for part in real.split(100):
        scores.add_real(part)
    scores.add_generated(made)
    a, b = real.flatten(1).double().numpy(), made.flatten(1).double().numpy()
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)
    assert scores.compute()["frechet_distance"] == pytest.approx(expected, rel=1e-4)
    scores.save_statistics(tmp_path / "real.npz")
    again = ImageScores(Pixels())
    again.add_statistics(tmp_path / "real.npz")
    again.add_generated(made)
    found = again.compute()
    assert found["frechet_distance"] == pytest.approx(expected, rel=1e-4)
    assert "precision" not in found


def test_consistency_and_inception_score_of_clear_images():
    scores = ImageScores(Pixels())
    clear = torch.eye(4)[torch.arange(900) % 3].view(-1, 1, 2, 2)
    scores.add_generated(clear, torch.arange(900) % 3)
    assert scores.compute()["consistency"] == 1.0
    assert scores.compute()["inception_score"] == pytest.approx(3.0, rel=0.05)
    scores.add_generated(clear, (torch.arange(900) + 1) % 3)
    assert scores.compute()["consistency"] == 0.5


def test_precision_and_recall_tell_what_is_missing():
    torch.manual_seed(0)
    left, right = torch.randn(200, 3), torch.randn(200, 3) + 50
    both = torch.cat([left, right])
    assert precision_recall(both, both) == (1.0, 1.0)
    precision, recall = precision_recall(both, left + 1e-3)  # true to life, but one half is never drawn
    assert precision > 0.95
    assert 0.45 < recall < 0.55
    precision, recall = precision_recall(left, both)  # everything is drawn, and as much that is not real
    assert 0.45 < precision < 0.55
    assert recall > 0.95


def test_a_classifier_learns_and_gives_its_features():
    torch.manual_seed(0)
    judge = Classifier(2, dim=16)
    labels = torch.arange(64) % 2
    x = torch.rand(64, 1, 8, 8) * 0.5 + 0.5 * labels[:, None, None, None]
    optimizer = torch.optim.Adam(judge.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(judge(x).logits, labels).backward()
        optimizer.step()
    look = judge.eval()(x)
    assert (look.logits.argmax(1) == labels).float().mean() > 0.95
    assert torch.allclose(judge.head(look.features), look.logits)


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda s, p: s.add_statistics(p / "none.npz"), "is no file of statistics"),
        (lambda s, p: (np.savez(p / "a.npz", mu=np.zeros(3), sigma=np.eye(3)), s.add_statistics(p / "a.npz")), "3 fea"),
        (lambda s, p: s.compute(), "two generated images at least"),
        (lambda s, p: Inception(p / "none.pth"), "torch-fidelity|does not exist"),
    ],
)
def test_what_is_missing_is_told(run, words, tmp_path):
    scores = ImageScores(Pixels())
    with pytest.raises(UserError, match=words):
        run(scores, tmp_path)
