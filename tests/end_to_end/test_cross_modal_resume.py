"""Any-to-any training through the command line, stopped within an epoch: the same masks, weights and predictions."""

import csv
import sys
from dataclasses import astuple
from pathlib import Path

import pytest
import torch
import yaml
from conftest import sample_fields
from small_any_to_any import small_training

sys.path.insert(0, str(Path(__file__).parent))
from stoppable_run import differences, state

from mmmask.cli import main
from mmmask.masking import DirichletMask

ENDS = {  # after seven steps of four samples
    "steps": ["--trainer.max_steps", "7"],
    "tokens": ["--trainer.max_steps", "-1", "--model.total_tokens", str(7 * 4 * 20)],
}


@pytest.fixture
def masks(monkeypatch):
    """What is known and asked in each batch that is trained on, as it is drawn."""
    drawn, draw = [], DirichletMask.__call__

    def watched(self, data, seeds):
        question = draw(self, data, seeds)
        if torch.is_grad_enabled():  # in no validation
            drawn.append([astuple(question.known), astuple(question.asked), question.wanted])
        return question

    monkeypatch.setattr(DirichletMask, "__call__", watched)
    return drawn


def some_without_words(number):
    return {name: field for name, field in sample_fields(number).items() if name != "txt" or number % 3}


@pytest.fixture
def settings(make_shards, tmp_path):
    """Epochs of three steps of four samples; flips, dropout and averaged weights."""
    made = small_training(tmp_path, make_shards([7, 5], fields=some_without_words))
    made["trainer"] |= {"log_every_n_steps": 1, "callbacks": [{"class_path": "EMA", "init_args": {"decay": 0.9}}]}
    made["model"]["init_args"]["lr"] = 0.01
    made["model"]["init_args"]["backbone"]["init_args"]["dropout"] = 0.2
    made["data"]["init_args"]["modalities"]["picture"]["init_args"]["flip"] = True
    return made


def logged(run):
    with open(run / "metrics.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [(row["step"], k, v) for row in rows for k, v in row.items() if v and k.startswith(("train/", "val/"))]


@pytest.mark.parametrize("end", ENDS)
def test_stopped_and_resumed_it_is_the_same_run(end, settings, masks, tmp_path):
    def fit(name, *callbacks):
        settings["trainer"]["callbacks"] += callbacks
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
        where = ["--trainer.default_root_dir", str(tmp_path / name)]
        return main(["fit", "--config", str(tmp_path / "config.yaml"), *where, *ENDS[end]])

    assert fit("quiet") == 0
    expected = masks[:]
    masks.clear()
    assert fit("stopped", {"class_path": "stoppable_run.SignalAt", "init_args": {"batch": 4}}) == 143
    quiet, stopped = tmp_path / "quiet/run-1", tmp_path / "stopped/run-1"
    assert state(stopped)["global_step"] == len(masks) == 4
    assert main(["resume", str(stopped)]) == 0
    assert len(expected) == 7
    assert differences(masks, expected) == []
    for name in ("state_dict", "ema", "optimizer_states", "lr_schedulers", "global_step"):
        assert differences(state(stopped)[name], state(quiet)[name]) == [], name
    assert logged(stopped) == logged(quiet)
    for picture in (quiet / "samples").iterdir():
        assert picture.read_bytes() == (stopped / "samples" / picture.name).read_bytes()
