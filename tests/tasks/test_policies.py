"""A published policy is imported with its generator, decodes with it, and is refused with another."""

import argparse

import pytest
import torch
from nat_reference import vectors
from PIL import Image
from small_generators import tokenizer_of
from torch.testing import assert_close

from mmmask.cli import main
from mmmask.pretrained.model_files import Model, build, read, write
from mmmask.synthesis import AdaptiveSampler
from mmmask.synthesis.policy import rules_of_thumb
from tasks.samplers import sampler_of

TOKENIZER = tokenizer_of(image_size=32, patch=2)


@pytest.fixture
def files(tmp_path):
    """A generator and a policy as their published codes write them, and a tokenizer that fits."""
    torch.save(vectors("adanat_env_weights"), tmp_path / "nnet_ema.pth")
    weights = vectors("adanat_policy_weights")
    old = {name.replace("policy.", "policy_old.", 1): value + 0.01 for name, value in weights.items()}
    content = {"model": {**weights, **old}, "discriminator": {}, "args": argparse.Namespace(gen_steps=4)}
    torch.save(content, tmp_path / "policy.pth")
    tokenizer = build(TOKENIZER)
    tokenizer(torch.rand(8, 3, 32, 32))
    write(tmp_path / "tokenizer", Model({"tokenizer": tokenizer}, {"tokenizer": TOKENIZER}), "")
    return tmp_path


def import_(files, *options):
    arguments = ["import", files / "nnet_ema.pth", files / "out", "--heads", 4, "--tokenizer", files / "tokenizer"]
    return main([str(word) for word in [*arguments, *options]])


def test_a_published_policy_decodes_with_its_generator(files, capsys):
    assert import_(files, "--policy", files / "policy.pth") == 0
    model = read(files / "out")
    sampler = sampler_of(model)
    assert isinstance(sampler, AdaptiveSampler)
    weight = model.parts["policy"].actor.layers[0].weight
    assert torch.equal(weight, vectors("adanat_policy_weights")["policy.actor.linear1.weight"] + 0.01)  # the old one
    draw = ["generate", "--checkpoint", str(files / "out"), "--class", "1", "--n", "2", "--out", str(files / "a.png")]
    assert main([*draw, "--trace", str(files / "t.png")]) == 0
    assert Image.open(files / "t.png").width > 1500
    assert main([*draw, "--schedule", "cosine", "--steps", "3"]) == 0
    assert main([*draw, "--steps", "8"]) == 2
    assert "a policy for 4 steps, which leaves no choice of steps" in capsys.readouterr().err
    assert main(["export", str(files / "out"), str(files / "out.pth"), "--published"]) == 2
    assert "decodes by a policy, for which the published code has no file" in capsys.readouterr().err


def test_all_its_modules_go_to_a_device_together(files):
    assert import_(files, "--policy", files / "policy.pth") == 0
    model = read(files / "out").to(torch.device("meta"))
    devices = {name: {p.device.type for p in model.parts[name].parameters()} for name in ("generator", "policy")}
    assert devices == {"generator": {"meta"}, "policy": {"meta"}}


def test_a_published_policy_tells_its_steps_and_what_it_deviates_from(files, capsys):
    content = torch.load(files / "policy.pth", weights_only=False)
    assert import_(files, "--policy", files / "policy.pth", "--policy_steps", 8) == 2
    assert "is a policy for 4 steps, not 8" in capsys.readouterr().err
    content["args"].heu = 1
    torch.save(content, files / "policy.pth")
    assert import_(files, "--policy", files / "policy.pth") == 0
    assert_close(read(files / "out").parts["policy"].bias, rules_of_thumb(4))
    del content["args"]
    torch.save(content, files / "policy.pth")
    assert import_(files, "--policy", files / "policy.pth") == 2
    assert "does not tell for how many steps it is: give --policy_steps" in capsys.readouterr().err
    assert import_(files, "--policy", files / "policy.pth", "--policy_steps", 6) == 0
    policy = read(files / "out").parts["policy"]
    assert (policy.steps, policy.bias.abs().max()) == (6, 0)


def test_a_policy_of_another_generator_is_refused(files, capsys):
    torch.save(vectors("recap_weights"), files / "nnet_ema.pth")
    arguments = ["import", files / "nnet_ema.pth", files / "out", "--heads", 2, "--policy", files / "policy.pth"]
    assert main(list(map(str, arguments))) == 2
    assert "for 256 tokens with features of 32 numbers, the generator has 256 with 24" in capsys.readouterr().err
    assert import_(files, "--policy", files / "nnet_ema.pth") == 2
    assert not (files / "out").exists()


def test_what_is_no_policy_is_told(files, capsys):
    assert import_(files, "--policy", files / "nnet_ema.pth") == 2
    assert "is no policy of AdaNAT" in capsys.readouterr().err
