"""Pictures as vectors: what they show counts, not where they are bright."""

import numpy as np
import torch

from mmmask.discovery.picture_features import PictureFeatures, hog


def stripes(across, phase=0.0, light=0.5):
    line = 0.5 + light * torch.sin(torch.arange(64) / 3 + phase)
    return (line[:, None] if across else line[None, :]).expand(3, 64, 64)


def test_direction_decides_and_light_does_not():
    found = hog(torch.stack([stripes(True), stripes(True, 1.0), stripes(False), stripes(True, light=0.2)]))
    similar = (found @ found.T) / (found.norm(dim=1)[:, None] * found.norm(dim=1))
    assert similar[0, 1] > 0.9 > 0.2 > similar[0, 2]
    assert similar[0, 3] > 0.99


def test_directions_separate_kinds_and_absent_pictures_stay_zero():
    pictures = torch.stack([stripes(n % 2 == 0, n / 5) for n in range(20)])
    histograms = hog(pictures).numpy().astype(np.float16)
    histograms[-1] = 0
    rows = PictureFeatures.fit(histograms, dim=3)(histograms)
    assert not rows[-1].any()
    similar = rows @ rows.T
    assert similar[0, 2:18:2].min() > 0.5 > similar[0, 1:19:2].max()
