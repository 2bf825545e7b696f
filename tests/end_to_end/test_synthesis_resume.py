"""Image synthesis through the command line, stopped again and again: the same weights, averages and pictures."""

import csv
import sys
from pathlib import Path

import pytest
import torch
import yaml
from small_generators import tokenizer_of

sys.path.insert(0, str(Path(__file__).parent))
from stoppable_run import differences, state

from mmmask.cli import main
from mmmask.pretrained.model_files import Model, build, write

TOKENIZER = tokenizer_of(image_size=32, patch=8)
BACKBONES = {
    "ENAT": {"encoder_depth": 2, "decoder_depth": 2},
    "AutoNAT": {"depth": 3},
}


@pytest.fixture
def tokenizer(tmp_path):
    torch.manual_seed(0)
    model = build(TOKENIZER)
    model(torch.rand(8, 3, 32, 32))  # places the codes
    write(tmp_path / "tokenizer", Model({"tokenizer": model}, {"tokenizer": TOKENIZER}), "")
    return str(tmp_path / "tokenizer")


def config(folder, shards, tokenizer, family, *callbacks):
    """A small training in `folder`; the path of its configuration."""
    sizes = {"vocab_size": 24, "tokens": 16, "classes": 3, "dim": 16, "heads": 2, "dropout": 0.2}
    backbone = {"class_path": f"mmmask.transformer.{family}", "init_args": {**sizes, **BACKBONES[family]}}
    content = {
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 3,
            "val_check_interval": 4,
            "log_every_n_steps": 1,
            "accumulate_grad_batches": 2,
            "default_root_dir": str(folder),
            "callbacks": [{"class_path": "EMA", "init_args": {"decay": 0.9}}, *callbacks],
        },
        "model": {
            "class_path": "ImageSynthesis",
            "init_args": {"tokenizer": tokenizer, "backbone": backbone, "warmup_steps": 2, "decay": "cosine"},
        },
        "data": {
            "class_path": "ShardData",
            "init_args": {
                "train": shards,
                "val": shards,
                "batch_size": 4,
                "modalities": {
                    "image": {"class_path": "Image", "init_args": {"field": "jpg", "size": 32, "flip": True}},
                    "label": {"class_path": "Label"},
                },
            },
        },
    }
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "config.yaml")


def losses(run):
    with open(run / "metrics.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [(row["step"], row.get("train/loss"), row.get("val/loss")) for row in rows]


@pytest.mark.parametrize("family", BACKBONES)
def test_stopped_every_nine_batches_it_is_the_same_run(family, make_shards, tokenizer, tmp_path):
    shards = make_shards([11, 9, 10])  # 8 batches an epoch
    assert main(["fit", "--config", config(tmp_path / "quiet", shards, tokenizer, family)]) == 0
    stop = {"class_path": "stoppable_run.SignalAt", "init_args": {"batch": 9, "signum": 15}}
    code = main(["fit", "--config", config(tmp_path / "stopped", shards, tokenizer, family, stop)])
    quiet, stopped, stops = tmp_path / "quiet/run-1", tmp_path / "stopped/run-1", 0
    while code == 143 and stops < 9:
        stops += 1
        code = main(["resume", str(stopped)])
    assert (code, stops) == (0, 2)
    for name in ("state_dict", "ema", "optimizer_states", "lr_schedulers", "global_step", "tokenizer"):
        assert differences(state(stopped)[name], state(quiet)[name]) == [], name
    assert losses(stopped) == losses(quiet)
    pictures = [sorted(path.name for path in run.rglob("generated-*.png")) for run in (quiet, stopped)]
    assert len(pictures[0]) == 6
    assert pictures[0] == pictures[1]
    for picture in quiet.rglob("generated-*.png"):
        assert picture.read_bytes() == (stopped / picture.relative_to(quiet)).read_bytes()
