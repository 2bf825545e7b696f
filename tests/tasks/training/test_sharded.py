"""Checkpoints as folders: whole or absent, and harmless to read."""

import io
import multiprocessing
import os
import pickle
import random
import signal
import time

import pytest
import torch
import torch.distributed.checkpoint as dcp

from mmmask.errors import UserError
from tasks.training import sharded


def checkpoint(number=0.0):
    """One like Lightning's, all of whose numbers are `number`."""
    state = torch.nn.BatchNorm1d(3).state_dict()  # an OrderedDict with versions hanging on it
    for value in state.values():
        value.fill_(number)
    return {"state_dict": state, "lists": [torch.full((2, 2), number), {"deep": (torch.tensor(number), 7)}]}


def everything(path, tensor):
    return torch.empty_like(tensor, device="cpu")


def test_what_is_written_is_read(tmp_path):
    sharded.write(checkpoint(3.0), tmp_path / "new", moved=lambda tensor: tensor.ndim > 0)
    found = sharded.read(tmp_path / "new", everything)
    torch.testing.assert_close(found, checkpoint(3.0), rtol=0, atol=0)
    assert found["state_dict"]._metadata == checkpoint()["state_dict"]._metadata
    meta = torch.load(tmp_path / "new" / sharded.META, weights_only=True)
    assert meta["lists"][0].is_meta
    assert meta["lists"][1]["deep"] == (torch.tensor(3.0), 7)


def test_what_nobody_wants_is_not_read(tmp_path):
    sharded.write(checkpoint(), tmp_path / "new", moved=lambda tensor: True)
    found = sharded.read(tmp_path / "new", lambda path, empty: everything(path, empty) if path[0] == "lists" else None)
    assert found["state_dict"]["weight"].is_meta
    assert found["lists"][0].equal(torch.zeros(2, 2))


@pytest.mark.parametrize("before", ["nothing", "folder", "file", "link"])
def test_the_new_one_takes_the_place_of_whatever_was_there(tmp_path, before):
    target, new = tmp_path / "step.ckpt", tmp_path / ".step.ckpt.tmp-1"
    other = tmp_path / "other"
    other.mkdir()
    if before == "folder":
        sharded.write(checkpoint(1.0), target, moved=lambda tensor: True)
    elif before == "file":
        target.write_text("old")
    elif before == "link":
        target.symlink_to(other)
    sharded.write(checkpoint(2.0), new, moved=lambda tensor: True)
    sharded.take_place(new, target)
    torch.testing.assert_close(sharded.read(target, everything), checkpoint(2.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "step.ckpt"]


def test_names_are_swapped_in_two_steps_where_the_system_cannot_do_it_in_one(tmp_path, monkeypatch):
    monkeypatch.setattr(sharded.ctypes, "CDLL", lambda *_, **__: object())
    for number, name in enumerate(("new", "old")):
        sharded.write(checkpoint(number), tmp_path / name, moved=lambda tensor: True)
    sharded.take_place(tmp_path / "new", tmp_path / "old")
    torch.testing.assert_close(sharded.read(tmp_path / "old", everything), checkpoint(0))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def _write_without_end(folder):
    torch.set_num_threads(1)
    for number in range(1, 10_000):
        new = folder / f".last.ckpt.tmp-{os.getpid()}-{number}"
        sharded.write(checkpoint(float(number)), new, moved=lambda tensor: tensor.ndim > 0)
        sharded.take_place(new, folder / "last.ckpt")


def test_a_kill_at_any_time_leaves_the_old_or_the_new_one(tmp_path):
    sharded.write(checkpoint(0.0), tmp_path / "last.ckpt", moved=lambda tensor: True)
    rng, seen = random.Random(0), set()
    for number in range(100):
        writer = multiprocessing.get_context("fork").Process(target=_write_without_end, args=(tmp_path,))
        writer.start()
        time.sleep((0.02 + 0.1 * rng.random()) * (1 + number // 20))  # longer where the machine is slow
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        found = sharded.read(tmp_path / "last.ckpt", everything)
        content = found["lists"][0][0, 0].item()
        torch.testing.assert_close(found, checkpoint(content), rtol=0, atol=0)
        seen.add(content)
        if number >= 19 and len(seen) > 3:
            return
    raise AssertionError(f"the writer never came further than {seen}")


class Harmful:
    """Unpickling it makes a folder."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("where", ["contents", "entry", "meta"])
def test_a_folder_that_would_run_code_is_refused(tmp_path, where):
    folder, harm = tmp_path / "new", tmp_path / "harm"
    sharded.write(checkpoint(), folder, moved=lambda tensor: True)
    if where == "contents":
        (folder / ".metadata").write_bytes(pickle.dumps(Harmful(harm)))
    elif where == "entry":
        dcp.save({"lists/0": io.BytesIO(pickle.dumps(Harmful(harm)))}, storage_writer=dcp.FileSystemWriter(folder))
    else:
        torch.save({"lists": Harmful(harm)}, folder / sharded.META)
    with pytest.raises(UserError, match="holds Python objects"):
        sharded.read(folder, everything)
    assert not harm.exists()


@pytest.mark.parametrize("spoil", ["cut", "gone", "no_contents", "cut_meta"])
def test_damage_is_named(tmp_path, spoil):
    folder = tmp_path / "new"
    sharded.write(checkpoint(), folder, moved=lambda tensor: True)
    (shard,) = folder.glob("*.distcp")
    if spoil == "cut":
        shard.write_bytes(shard.read_bytes()[:100])
    elif spoil == "gone":
        shard.unlink()
    elif spoil == "no_contents":
        (folder / ".metadata").unlink()
    else:
        (folder / sharded.META).write_bytes((folder / sharded.META).read_bytes()[:100])
    with pytest.raises(UserError, match=r"new is damaged \(.+\)\. Take an older one"):
        sharded.read(folder, everything)
