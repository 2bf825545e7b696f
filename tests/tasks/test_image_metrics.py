"""What images are worth together, on one rank and on several."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from processes import together

from mmmask.errors import UserError
from mmmask.metrics import Classifier, ImageScores
from mmmask.pretrained.model_files import Model, read, write
from tasks.image_metrics import FrechetDistance

SPEC = {"class_path": "mmmask.metrics.Classifier", "init_args": {"classes": 3, "channels": 3, "dim": 8}}


@pytest.fixture
def eyes(tmp_path):
    """Statistics of real images, and a judge."""
    torch.manual_seed(0)
    write(tmp_path / "judge", Model({"judge": Classifier(3, 3, 8)}, {"judge": SPEC}), "")
    np.savez(tmp_path / "real.npz", mu=np.full(8, 0.1), sigma=np.eye(8) * 0.01 + 0.005)
    return tmp_path / "real.npz", tmp_path / "judge"


def pictures():
    return torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def seen(metric, images):
    for some in images.split(7):
        metric.update(some, torch.zeros(len(some)))
    return metric


def test_the_frechet_distance_is_that_of_evaluate(eyes):
    scores = ImageScores(read(eyes[1]).parts["judge"])
    scores.add_statistics(eyes[0])
    scores.add_generated(pictures())
    assert seen(FrechetDistance(*eyes), pictures()).compute().item() == pytest.approx(
        scores.compute()["frechet_distance"], rel=1e-5
    )


def on_a_rank(rank, eyes, whole):
    """The second rank sees nothing in the end."""
    dist.init_process_group("gloo")
    for mine in ([pictures()[::2], pictures()[1::2]], [pictures(), pictures()[:0]]):
        assert seen(FrechetDistance(*eyes), mine[rank]).compute().item() == pytest.approx(whole, rel=1e-6)


def test_all_ranks_find_the_distance_of_all_images(eyes):
    together(2, on_a_rank, eyes, seen(FrechetDistance(*eyes), pictures()).compute().item())


def test_its_settings_tell_what_it_looks_at_not_where_that_is(eyes, tmp_path):
    settings = FrechetDistance(*eyes).settings()
    moved = [path.rename(tmp_path / f"moved-{path.name}") for path in eyes]
    assert FrechetDistance(*moved).settings() == settings
    write(moved[1], Model({"judge": Classifier(3, 3, 8)}, {"judge": SPEC}), "")
    assert FrechetDistance(*moved).settings() != settings


def test_what_is_missing_is_told(eyes, tmp_path):
    with pytest.raises(UserError, match="give either judge"):
        FrechetDistance(eyes[0])
    with pytest.raises(UserError, match="none does not exist: it is needed to tell"):
        FrechetDistance(eyes[0], tmp_path / "none")
    with pytest.raises(UserError, match="two images at least"):
        FrechetDistance(*eyes).compute()
