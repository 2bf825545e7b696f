"""Sharded training of any task, through the trainer."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from processes import sharding, together
from small_task import Task, loader, train, trainer
from torch.distributed.tensor import DTensor

from mmmask.errors import UserError
from tasks.training import sharded
from tasks.training.conversion import whole


def load(path):
    return whole(path) if path.is_dir() else torch.load(path, weights_only=True)


@sharding
@pytest.mark.parametrize("choice", [{}, {"activation_checkpointing": True}])
@pytest.mark.parametrize(("strategy", "ranks"), [("ddp", 2), ("folder", 1), ("folder", 2), ("file", 3)])
def test_any_number_of_ranks_trains_to_the_same_weights(tmp_path, strategy, ranks, choice):
    together(1, train, tmp_path / "alone")
    together(ranks, train, tmp_path / "ranks", strategy, ranks, parallel=choice, gradient_clip_val=0.0)
    ours, theirs = (load(tmp_path / name / "6.ckpt") for name in ("ranks", "alone"))
    for part in ("state_dict", "optimizer_states", "ema"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=1e-6)


@sharding
def test_clipping_measures_the_gradient_over_all_ranks(tmp_path):
    together(1, train, tmp_path / "alone", gradient_clip_val=0.01)
    together(2, train, tmp_path / "two", "folder", 2, gradient_clip_val=0.01)
    moments = [load(tmp_path / name / "6.ckpt")["optimizer_states"] for name in ("alone", "two")]
    torch.testing.assert_close(*moments, rtol=0, atol=1e-8)
    assert moments[0][0]["state"][0]["exp_avg"].norm() < 0.01


class SeesItsAverage(Callback):
    def on_train_start(self, trainer, pl_module):
        average = next(c for c in trainer.callbacks if type(c).__name__ == "Average")
        if not hasattr(average, "loaded"):
            return
        assert average.loaded["steps"] == pl_module.steps == 3
        for name, weight in pl_module.named_parameters():
            assert isinstance(average.loaded[name], DTensor)
            assert average.loaded[name].to_local().equal(2 * weight.detach().to_local())


@sharding
def test_a_resumed_run_is_the_uninterrupted_one_to_the_last_bit(tmp_path):
    options = {"callbacks": [SeesItsAverage()]}
    together(2, train, tmp_path, "folder", 2, steps=3)
    together(2, train, tmp_path / "resumed", "folder", 2, resume=tmp_path / "3.ckpt", **options)
    together(2, train, tmp_path / "quiet", "folder", 2, **options)
    ours, theirs = (load(tmp_path / name / "6.ckpt") for name in ("resumed", "quiet"))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "ema"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)


def _fit_and_test(rank, folder):
    runner = train(rank, folder, "folder", 2)
    (after_fit,) = runner.test(runner.lightning_module, loader(2, rank), verbose=False)
    fresh, again = Task(), trainer("folder", 2)
    (from_file,) = again.test(fresh, loader(2, rank), ckpt_path=folder / "6.ckpt", weights_only=True, verbose=False)
    assert after_fit == from_file
    assert runner.lightning_module.configured == fresh.configured == 1
    assert all(isinstance(p, DTensor) for p in fresh.parameters())


@sharding
def test_what_was_fitted_is_tested_and_so_is_its_checkpoint(tmp_path):
    together(2, _fit_and_test, tmp_path)


def test_without_sharding_only_training_is_changed():
    def forwards(stage, **parallel):
        model, runner = Task(), trainer(parallel=parallel, steps=1)
        getattr(runner, stage)(model, loader())
        return "forward" in vars(model.net[1]), model.configured

    assert forwards("fit", activation_checkpointing=True) == (True, 1)
    assert forwards("test", activation_checkpointing=True) == (False, 1)
    assert forwards("fit") == (False, 1)


class SeesBfloat16(Callback):
    def on_fit_start(self, trainer, pl_module):
        self.seen = set()
        pl_module.net[0].register_forward_hook(lambda module, *_: self.seen.add(module.weight.dtype))

    def on_fit_end(self, trainer, pl_module):
        assert self.seen == {torch.bfloat16}


@sharding
def test_bfloat16_arithmetic_keeps_float32_weights(tmp_path):
    together(2, train, tmp_path, "folder", 2, precision="bf16-mixed", callbacks=[SeesBfloat16()])
    together(1, train, tmp_path / "alone")
    ours, theirs = (load(tmp_path / name / "6.ckpt")["state_dict"] for name in (".", "alone"))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.02)
    assert {value.dtype for value in ours.values()} == {torch.float32}


def _refused(rank, folder, spoil):
    """A second checkpoint at the same place fails on every rank alike; the run could go on."""
    runner = train(rank, folder, "folder", 2, steps=2)
    if rank == 0:
        (folder / ".2.ckpt.tmp-0").mkdir()  # as a killed run leaves it
    with pytest.MonkeyPatch.context() as patch:
        named = spoil(rank, patch, folder)
        with pytest.raises(UserError, match=f"cannot write .*2.ckpt: .*{named}"):
            runner.save_checkpoint(folder / "2.ckpt")
        runner.strategy.barrier()  # as whoever catches it does, since Lightning did not come to it
    assert [path.name for path in folder.iterdir()] == ["2.ckpt"]
    assert load(folder / "2.ckpt")["global_step"] == 2
    runner.save_checkpoint(folder / "2.ckpt")


def _full(*_, **__):
    raise OSError(28, "No space left on device")


def full_disk_of_the_other(rank, patch, folder):
    if rank == 1:
        patch.setattr("torch.distributed.checkpoint.filesystem.os.fsync", _full)
    return "No space left"


def full_disk_of_the_first_at_last(rank, patch, folder):
    patch.setattr(sharded, "written_whole", _full)
    return "No space left"


def disks_of_their_own(rank, patch, folder):
    write = sharded.dcp.FileSystemWriter
    elsewhere = folder.with_name("elsewhere")
    patch.setattr(sharded.dcp, "FileSystemWriter", lambda path: write(elsewhere if rank else path))
    return "is not one folder that all machines share"


@sharding
@pytest.mark.parametrize("spoil", [full_disk_of_the_other, full_disk_of_the_first_at_last, disks_of_their_own])
def test_what_one_rank_cannot_write_is_told_on_all_and_the_old_checkpoint_stays(tmp_path, spoil):
    together(2, _refused, tmp_path / "run", spoil)
