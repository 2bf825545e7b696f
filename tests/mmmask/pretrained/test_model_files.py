"""Models as files: there and back, and nothing in a file that could run."""

import json

import pytest
import torch
from safetensors import safe_open

from mmmask.errors import UserError
from mmmask.pretrained.model_files import Model, build, has_config, read, write
from mmmask.synthesis import ImageGenerator, Sampler, Step

BACKBONE = {
    "class_path": "mmmask.transformer.ENAT",
    "init_args": {
        "vocab_size": 8,
        "tokens": 16,
        "classes": 3,
        "dim": 16,
        "encoder_depth": 1,
        "decoder_depth": 1,
        "heads": 2,
    },
}
SPECS = {
    "generator": {"class_path": "mmmask.synthesis.ImageGenerator", "init_args": {"backbone": BACKBONE}},
    "sampler": {
        "class_path": "mmmask.synthesis.Sampler",
        "init_args": {
            "schedule": {
                "class_path": "mmmask.synthesis.Schedule",
                "init_args": {"steps": [{"masked": 0.0, "temperature": 2.0}]},
            },
            "top_k": 3,
        },
    },
}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model({name: build(spec) for name, spec in SPECS.items()}, SPECS)


@pytest.mark.parametrize("name", ["folder", "file.safetensors"])
def test_there_and_back(model, tmp_path, name):
    path = tmp_path / name
    write(path, model, "A card.")
    again = read(path)
    assert isinstance(again.parts["generator"], ImageGenerator)
    assert not again.parts["generator"].training
    before, after = model.parts["generator"].state_dict(), again.parts["generator"].state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert isinstance(again.parts["sampler"], Sampler)
    assert again.parts["sampler"].top_k == 3
    assert again.parts["sampler"].schedule.steps == (Step(0.0, 2.0),)
    assert again.specs == SPECS
    if path.is_dir():
        assert (path / "README.md").read_text() == "A card."
    else:
        assert has_config(path)
        with safe_open(path, "pt") as opened:
            assert opened.metadata()["card"] == "A card."


def changed(path, change):
    config = json.loads((path / "config.json").read_text())
    change(config["parts"])
    (path / "config.json").write_text(json.dumps(config))


def arguments(parts):
    return parts["generator"]["init_args"]["backbone"]["init_args"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda p: (p / "config.json").unlink(), "does not exist: .* no model that mmmask exported"),
        (lambda p: (p / "config.json").write_text("{"), "is damaged, or no model"),
        (lambda p: (p / "model.safetensors").write_bytes(b"x" * 100), "is damaged, or no model"),
        (lambda p: changed(p, lambda s: s["generator"].update(class_path="os.system")), "only classes of mmmask"),
        (lambda p: changed(p, lambda s: s["sampler"].update(class_path="mmmask.synthesis.Samplr")), "mean 'Sampler'"),
        (lambda p: changed(p, lambda s: s["sampler"].update(class_path="mmmask.cli.main")), "no class of mmmask"),
        (lambda p: changed(p, lambda s: s["sampler"].update(class_path="mmmask.files.FileLock")), "no class of mmmask"),
        (
            lambda p: changed(p, lambda s: s["sampler"]["init_args"].update(topk=1)),
            "does not fit mmmask.synthesis.Samp",
        ),
        (lambda p: changed(p, lambda s: arguments(s).update(dim=32)), "another size: .* is .* there, .* here"),
        (
            lambda p: changed(p, lambda s: arguments(s).update(encoder_depth=2)),
            "another model: it has no generator|no ba",
        ),
        (lambda p: changed(p, lambda s: arguments(s).update(decoder_depth=0)), "another model: this one has no"),
    ],
)
def test_what_cannot_be_read_is_told(model, tmp_path, spoil, words):
    write(tmp_path / "model", model, "")
    spoil(tmp_path / "model")
    with pytest.raises(UserError, match=words):
        read(tmp_path / "model")


def test_a_missing_part_is_told(model, tmp_path):
    with pytest.raises(UserError, match="holds no tokenizer, only generator, sampler"):
        model.part("tokenizer", "x")


def test_a_folder_of_other_things_is_not_written_into(model, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(UserError, match="holds other things than a model"):
        write(tmp_path, model, "")
    assert (tmp_path / "README.md").read_text() == "mine"
