"""A second model draws in more detail what the first has predicted: trained from it, and chained by one command."""

import json

import pytest
import torch
import yaml
from conftest import sample_fields
from PIL import Image
from small_any_to_any import WORDS
from small_generators import tokenizer_of

from mmmask import shipped
from mmmask.cli import main
from mmmask.pretrained.model_files import Model, build, write
from tasks.finished import model_of
from tasks.predicting import _passed_on

SIZES = {"dim": 32, "encoder_depth": 1, "decoder_depth": 1, "heads": 2}


@pytest.fixture
def runs(make_shards, tmp_path, monkeypatch):
    """Both shipped configurations, made small: pictures of 8 pixels as 2x2 tokens, then of 16 as 4x4."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "emoji-words.json").write_text(json.dumps(WORDS))
    for name, size in (("emoji_openmoji", 8), ("emoji_twemoji", 8), ("emoji_openmoji_64", 16)):
        torch.manual_seed(size)
        tokenizer = build(spec := tokenizer_of(image_size=size, patch=4))
        tokenizer(torch.rand(8, 3, size, size))  # places the codes
        write(tmp_path / "runs" / name, Model({"tokenizer": tokenizer}, {"tokenizer": spec}), "")

    def fields(number):
        made = sample_fields(number)
        picture, record = made["jpg"], json.dumps({"group": "flags"}).encode()
        return {"openmoji.png": picture, "twemoji.png": picture, "txt": b"a red circle", "json": record}

    shards = make_shards([8], fields=fields)
    for name, size in (("emoji", 8), ("emoji_larger", 16)):
        config = yaml.safe_load(shipped.find(f"cross_modal/{name}.yaml").read_text())
        model, data = config["model"]["init_args"], config["data"]["init_args"]
        for codec in model["modalities"].values():
            if "image_size" in codec["init_args"]:
                codec["init_args"].update(image_size=8)
            if "length" in codec["init_args"]:
                codec["init_args"].update(length=8)
        model["backbone"]["init_args"].update(SIZES)
        if "alignment" in model:
            model["alignment"]["init_args"].update(dim=SIZES["dim"])
        for reader in data["modalities"].values():
            if "size" in reader["init_args"]:
                reader["init_args"]["size"] = size
        data.update(train=shards, val=shards, batch_size=4)
        config["trainer"].update(max_steps=2, val_check_interval=2, default_root_dir=f"runs/{name}")
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert main(["fit", "--config", "emoji.yaml"]) == 0
    assert main(["fit", "--config", "emoji_larger.yaml", "--model.init_from", "runs/emoji"]) == 0
    return tmp_path / "runs" / "emoji", tmp_path / "runs" / "emoji_larger"


def test_what_one_model_predicts_another_draws_larger(runs, tmp_path, capsys):
    base, larger = runs
    told = (larger / "run-1" / "init_from.txt").read_text()
    assert "loaded   embedding.openmoji.words" in told
    assert "loaded   encoder.blocks.0.mlp.up.weight" in told
    assert "fresh    embedding.openmoji_large.words: the other has none" in told
    options = ["--checkpoint", str(base), "--then", str(larger), "--given", "text=a red circle", "--n", "2"]
    assert main(["predict-modality", *options, "--want", "openmoji_large,openmoji,group", "--out", "out"]) == 0
    assert [Image.open(tmp_path / "out" / f"openmoji{more}-1.png").size for more in ("", "_large")] == [
        (8, 8),
        (16, 16),
    ]
    assert (tmp_path / "out" / "group.txt").exists()
    assert main(["predict-modality", *options[:2], *options[4:], "--want", "openmoji,openmoji_large"]) == 2
    assert "there is no modality 'openmoji_large' here" in capsys.readouterr().err
    assert main(["predict-modality", *options, "--want", "opnmoji"]) == 2
    assert "Did you mean 'openmoji'" in capsys.readouterr().err


def test_tokens_are_passed_on_as_they_are_where_both_mean_the_same(runs):
    base, larger = (model_of(run).parts["any_to_any"] for run in runs)
    found = base.answers({"text": ["a red circle"]}, ["openmoji", "text"])
    raw = {name: base.codec(name).decode(*answer) for name, answer in found.items()}
    passed = _passed_on(base, larger, found, raw)
    assert torch.equal(passed["openmoji"], found["openmoji"][0])
    assert passed["text"] == raw["text"]
    torch.nn.init.normal_(larger.codec("openmoji").tokenizer.to_code.weight)
    assert torch.equal(_passed_on(base, larger, found, raw)["openmoji"], raw["openmoji"])
