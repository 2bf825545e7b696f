"""Published checkpoints become models of ours; what they cannot tell is asked for; nothing in them runs."""

import argparse
import os

import pytest
import torch
from nat_reference import autonat, enat, vectors
from safetensors.torch import save_file

from mmmask.errors import UserError
from mmmask.pretrained.published import read_published, write_published
from mmmask.synthesis import AutoNATSchedule, ENATSchedule


def test_autonat(tmp_path):
    torch.save(vectors("autonat_weights"), tmp_path / "nnet_ema.pth")
    model = read_published(tmp_path / "nnet_ema.pth", heads=4)
    expected = autonat().state_dict()
    found = model.parts["generator"].state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert model.parts["generator"].classes == 10
    assert isinstance(model.parts["sampler"].schedule, AutoNATSchedule)


def test_enat_in_a_wrapper_with_arguments_of_a_script(tmp_path):
    wrapped = {"model": {f"module.{k}": v for k, v in vectors("enat_weights").items()}, "args": argparse.Namespace(a=1)}
    torch.save(wrapped, tmp_path / "enat.pth")
    model = read_published(tmp_path / "enat.pth", heads=4, encoder_depth=3)
    expected = enat().state_dict()
    found = model.parts["generator"].state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert model.specs["generator"]["init_args"]["backbone"]["init_args"]["decoder_depth"] == 2
    assert isinstance(model.parts["sampler"].schedule, ENATSchedule)


def test_vqgan_as_safetensors(tmp_path):
    save_file(vectors("vqgan_weights"), tmp_path / "vqgan.safetensors")
    tokenizer = read_published(tmp_path / "vqgan.safetensors", image_size=32).parts["tokenizer"]
    data = vectors("vqgan_io")
    assert torch.equal(tokenizer.encode(data["image"]).flatten(), data["indices"])


class Runs:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        (lambda: vectors("autonat_weights"), {}, "does not tell its heads: give --heads"),
        (lambda: vectors("enat_weights"), {"heads": 4}, "does not tell its encoder_depth"),
        (lambda: vectors("enat_weights"), {"heads": 4, "encoder_depth": 5}, "5 blocks: encoder_depth must leave some"),
        (lambda: vectors("autonat_weights"), {"heads": 5}, "32 does not divide into 5 heads"),
        (lambda: {"a.weight": torch.zeros(1)}, {}, "none of the checkpoints that can be imported"),
        (lambda: {**vectors("autonat_weights"), "extra.weight": torch.zeros(1)}, {"heads": 4}, "no place for: extra"),
        (lambda: dict([*vectors("autonat_weights").items()][2:]), {"heads": 4}, "file.pth lacks context_embed"),
        (lambda: torch.zeros(3), {}, "holds no weights by name"),
        (lambda: {"a": Runs()}, {}, "can run code"),
        (lambda: None, {}, "does not exist"),
    ],
)
def test_what_cannot_be_imported_is_told(content, options, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = content()
    if made is not None:
        torch.save(made, tmp_path / "file.pth")
    with pytest.raises(UserError, match=words):
        read_published(tmp_path / "file.pth", **options)
    assert not (tmp_path / "ran").exists()


def test_a_cut_file_is_told(tmp_path):
    torch.save(vectors("vqgan_weights"), tmp_path / "file.pth")
    (tmp_path / "file.pth").write_bytes((tmp_path / "file.pth").read_bytes()[:5000])
    with pytest.raises(UserError, match="is damaged, or no checkpoint"):
        read_published(tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("autonat_weights", {"heads": 4}),
        ("enat_weights", {"heads": 4, "encoder_depth": 3}),
        ("vqgan_weights", {"image_size": 32}),
    ],
)
def test_what_was_imported_can_be_given_back(name, options, tmp_path):
    published = vectors(name)
    torch.save(published, tmp_path / "file.pth")
    back, _ = write_published(read_published(tmp_path / "file.pth", **options))
    assert {key: value.shape for key, value in back.items()} == {key: value.shape for key, value in published.items()}
    torch.save(back, tmp_path / "back.pth")
    once, again = (read_published(tmp_path / file, **options) for file in ("file.pth", "back.pth"))
    for part in ("generator", "tokenizer"):
        if part in once.parts:
            before, after = once.parts[part].state_dict(), again.parts[part].state_dict()
            assert all(torch.equal(before[key], after[key]) for key in before)
