"""What is drawn depends on the place in the training alone."""

import random

import numpy as np
import pytest
import torch

from tasks.training.randomness import Randomness, seed_all


def draws():
    return (*torch.rand(2).tolist(), *np.random.rand(2).tolist(), random.random())  # noqa: NPY002


def at(*place):
    seed_all(*place)
    return draws()


def test_the_same_place_draws_the_same_and_each_other_place_something_else():
    places = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, 256)]
    drawn = [at(*place) for place in places]
    assert len({value for values in drawn for value in values}) == 5 * len(places)
    assert [at(*place) for place in places] == drawn


class Place:
    current_epoch, global_rank = 3, 0


def test_ranks_draw_different_masks_in_training_and_in_evaluation():
    def drawn(hook, rank):
        trainer = Place()
        trainer.global_rank = rank
        getattr(Randomness(), hook)(trainer, None, None, 5)
        return draws()

    for hook in ("on_train_batch_start", "on_validation_batch_start", "on_test_batch_start"):
        assert drawn(hook, 0) == drawn(hook, 0) != drawn(hook, 1)


@pytest.mark.parametrize("given", ["0", "7"])
def test_a_run_keeps_the_seed_it_began_with(given, monkeypatch, caplog):
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    state = Randomness().state_dict()
    monkeypatch.setenv("PL_GLOBAL_SEED", given)
    resumed = Randomness()
    resumed.load_state_dict(state)
    assert resumed.seed == 7
    assert ("its own seed_everything, 7 (0 was given)" in caplog.text) == (given == "0")
