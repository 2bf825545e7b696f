"""What happens when a loss is NaN, or far above the others."""

import logging
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "end_to_end"))
from stoppable_run import Masked, differences, state, train

from mmmask.errors import RunFailed, UserError
from tasks.training.guards import Guards


class Poisoned(Masked):
    """Its loss is multiplied by `factor` at step `at` (0-based), and with `times` in the steps after too."""

    def __init__(self, factor, at, times=1):
        super().__init__()
        self.factor, self.steps = factor, range(at, at + times)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * self.factor if self.global_step in self.steps else loss


@pytest.fixture
def shards(make_shards):
    return make_shards([11, 9, 10])


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_check_20_a_loss_that_is_not_finite_ends_the_run_before_the_weights_change(shards, tmp_path, factor):
    model = Poisoned(factor, at=5)
    with pytest.raises(RunFailed) as failure:
        train(shards, tmp_path / "run", Guards(), model=model, checkpoints={"every_n_steps": 5})
    words = str(failure.value)
    assert words.startswith("step 5 is not finite (rank 0: the batch is finite, the loss is")
    (dump,) = (tmp_path / "run").glob("not-finite-step-5-rank-0.pt")
    (batch,) = torch.load(dump, weights_only=True)
    assert f"samples {', '.join(batch['key'])}; {dump}" in words
    last = state(tmp_path / "run")
    assert last["global_step"] == 5
    assert differences(dict(model.state_dict()), dict(last["state_dict"])) == []


def test_the_modality_that_holds_nan_is_named(shards, tmp_path):
    class Spoilt(Masked):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            batch["tokens"] = batch["tokens"].float()
            if self.trainer.training and self.global_step == 2:
                batch["tokens"][1, 2] = float("nan")
            return batch

    with pytest.raises(RunFailed, match="modality 'tokens' of the batch holds NaN or infinity"):
        train(shards, tmp_path, Guards(), model=Spoilt())


def test_a_gradient_that_is_not_finite_under_a_finite_loss_is_named(shards, tmp_path):
    class Steep(Masked):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) + (self.net[2].weight.sum() * 0).abs().sqrt()

    with pytest.raises(RunFailed, match="the gradient of net.2.weight is not finite"):
        train(shards, tmp_path, Guards(), model=Steep())


def test_weights_that_are_not_finite_are_never_written(shards, tmp_path):
    class Overflowing(Masked):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            if self.global_step == 6:
                with torch.no_grad():
                    self.net[0].bias[0] = float("inf")

    with pytest.raises(RunFailed, match=r"weights are not finite any more after step 7: nothing was written"):
        train(shards, tmp_path, model=Overflowing(), checkpoints={"every_n_steps": 1})
    assert state(tmp_path)["global_step"] == 6


def test_check_21_a_spike_is_told_with_its_samples(shards, tmp_path, caplog):
    guards = Guards(spike=8)
    with caplog.at_level(logging.WARNING):
        train(shards, tmp_path, guards, model=Poisoned(100.0, at=15))
    (told,) = [record.getMessage() for record in caplog.records if "spikes" in record.getMessage()]
    assert told.startswith("step 15: the loss spikes to ")
    assert "; samples 0000" in told
    assert (guards.spikes, guards.skipped) == (1, 0)


def test_check_21_a_spike_can_be_skipped_and_then_leaves_no_trace_in_the_weights(shards, tmp_path):
    seen = {}

    class Watched(Poisoned):
        def on_train_batch_start(self, batch, batch_idx):
            seen[self.global_step] = [weight.detach().clone() for weight in self.parameters()]

    guards = Guards(spike=8, on_spike="skip")
    train(shards, tmp_path, guards, model=Watched(100.0, at=15))
    assert (guards.spikes, guards.skipped) == (1, 1)
    assert all(map(torch.equal, seen[15], seen[16]))
    assert not all(map(torch.equal, seen[14], seen[15]))


def test_a_loss_that_stays_high_is_accepted_after_ten_skips(shards, tmp_path):
    guards = Guards(spike=8, on_spike="skip")
    train(shards, tmp_path, guards, model=Poisoned(100.0, at=15, times=100), max_epochs=5)
    assert guards.skipped == 10


def test_what_the_guards_remember_survives_a_resume(shards, tmp_path):
    train(shards, tmp_path, Guards(spike=8), max_steps=12)
    guards = Guards(spike=8)
    train(shards, tmp_path, guards, max_steps=14)
    assert len(guards._recent) == 14


def test_a_step_without_a_loss_is_let_through(shards, tmp_path):
    class Sparing(Masked):
        def training_step(self, batch, batch_idx):
            return None if batch_idx % 2 else super().training_step(batch, batch_idx)

    assert train(shards, tmp_path, Guards(spike=8), model=Sparing()).global_step == 24


@pytest.mark.parametrize("options", [{"spike": -1}, {"window": 3}])
def test_impossible_guards_are_refused(options):
    with pytest.raises(UserError, match="guards: spike must be 0 or more and window 10 or more"):
        Guards(**options)
