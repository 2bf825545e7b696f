"""Published 4M checkpoints of all formats become models of ours, nothing missing or left over, and go back."""

import argparse
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmmask.catalogue import FOURM_7, FOURM_21, KNOWN
from mmmask.cli import main
from mmmask.errors import UserError
from mmmask.modalities import Modality
from mmmask.pretrained.fourm import write_fourm
from mmmask.pretrained.fourm_models import fourm_weights
from mmmask.pretrained.model_files import Model, read
from mmmask.pretrained.published import read_published, write_published
from mmmask.transformer import FourM

FEW = [KNOWN[name] for name in ("rgb@224", "tok_semseg@224", "caption")]
PLAIN = {"dim": 16, "encoder_depth": 2, "decoder_depth": 1, "heads": 4}


def made(modalities=FEW, **changes):
    """A backbone with random weights, and these under their published names."""
    torch.manual_seed(0)
    backbone = FourM(modalities, **{**PLAIN, **changes})
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return backbone, write_fourm(backbone.state_dict(), modalities)


def same(model, backbone):
    found, expected = model.parts["backbone"].state_dict(), backbone.state_dict()
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], expected[name]) for name in expected)


def written(folder, weights, config, form):
    """A checkpoint as it is published: three formats."""
    if form == "pickle":
        arguments = argparse.Namespace(model="fm_test", num_heads=config.get("num_heads"), lr=1e-4)
        torch.save({"model": weights, "args": arguments, "epoch": 3}, folder / "file.pth")
        return folder / "file.pth"
    weights = {name: value.clone() for name, value in weights.items()}
    if form == "metadata":
        save_file(weights, folder / "file.safetensors", {name: str(value) for name, value in config.items()})
        return folder / "file.safetensors"
    (folder / "hub").mkdir()
    for name in [name for name in weights if name.startswith("encoder") and "mod_emb" in name and "rgb" not in name]:
        del weights[name]  # of what is tied, the Hub's files keep one
    for name in [name for name in weights if name.endswith("to_logits.weight")]:
        del weights[name]
    save_file(weights, folder / "hub" / "model.safetensors", {"format": "pt"})
    (folder / "hub" / "config.json").write_text(json.dumps(config))
    return folder / "hub"


@pytest.mark.parametrize("form", ["pickle", "metadata", "hub"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"mlp": "gelu", "bias": True, "mlp_ratio": 3.0}, {"qk_norm": True, "registers": 3, "mlp_ratio": 2.1}],
)
def test_sizes_and_variants_are_found_out(form, changes, tmp_path):
    backbone, weights = made(**changes)
    model = read_published(written(tmp_path, weights, {"num_heads": 4, "dim": 16, "domains_in": None}, form))
    assert same(model, backbone)
    assert model.parts["backbone"].encoder.blocks[0].attention.heads == 4
    assert model.parts["backbone"].embedding.catalogue.modalities == tuple(FEW)


@pytest.mark.parametrize("modalities", [FOURM_7, FOURM_21], ids=["4M-7", "4M-21"])
def test_all_published_modalities_load_and_go_back(modalities, tmp_path):
    backbone, weights = made(modalities, dim=8, heads=2)
    torch.save({"model": weights}, tmp_path / "file.pth")
    model = read_published(tmp_path / "file.pth", heads=2)
    assert same(model, backbone)
    back, config = write_published(model)
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)
    assert config["domains_in"] == sorted(m.name for m in modalities)
    assert "rgb@224" not in config["domains_out"]
    assert config["num_heads"] == 2


@pytest.mark.parametrize("ours", [{"stem": "conv"}, {"places": "picture"}])
def test_what_the_published_code_does_not_have_is_not_exported(ours):
    backbone, _ = made([KNOWN["tok_depth@224"]], **ours)
    with pytest.raises(UserError, match=r"neither stem: conv nor places: picture.*without --published"):
        fourm_weights(backbone)


def test_two_layers_of_text_vectors_become_one(tmp_path):
    _, weights = made([*FEW, KNOWN["t5_caption"]])
    name = "encoder_embeddings.t5_caption.emb_proj"
    first, then = torch.randn(5, 4096), torch.randn(16, 5)
    bias = torch.randn(5), torch.randn(16)
    for kind in ("weight", "bias"):
        del weights[f"{name}.{kind}"]
    weights |= {
        f"{name}.0.weight": first,
        f"{name}.1.weight": then,
        f"{name}.0.bias": bias[0],
        f"{name}.1.bias": bias[1],
    }
    torch.save(weights, tmp_path / "file.pth")
    project = read_published(tmp_path / "file.pth", heads=4).parts["backbone"].embedding.project["t5_caption"]
    x = torch.randn(3, 4096)
    assert torch.allclose(project(x), (x @ first.T + bias[0]) @ then.T + bias[1], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("out", ["back.pth", "back.safetensors", "back"])
def test_it_is_imported_and_exported_from_the_command_line(out, tmp_path):
    backbone, weights = made()
    source = written(tmp_path, weights, {"num_heads": 4}, "metadata")
    assert main(["import", str(source), str(tmp_path / "ours")]) == 0
    assert same(read(tmp_path / "ours"), backbone)
    assert main(["export", str(tmp_path / "ours"), str(tmp_path / out), "--published"]) == 0
    assert same(read_published(tmp_path / out), backbone)  # with its configuration: no heads are asked for
    if out == "back":
        assert load_file(tmp_path / out / "model.safetensors").keys() == weights.keys()
        assert json.loads((tmp_path / out / "config.json").read_text())["gated_mlp"] is True


def test_the_name_of_a_published_size_tells_its_heads(tmp_path):
    _, weights = made(dim=24)
    arguments = argparse.Namespace(model="fm_base_12e_12d_swiglu_nobias")
    torch.save({"model": weights, "args": arguments}, tmp_path / "file.pth")
    model = read_published(tmp_path / "file.pth")
    assert model.parts["backbone"].encoder.blocks[0].attention.heads == 12


def without(name):
    return lambda weights: {key: value for key, value in weights.items() if key != name}


CAPTION = "decoder_embeddings.caption"


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (dict, {}, "is of 4M, and does not tell its heads: give --heads"),
        (dict, {"heads": 5}, "16 does not divide into 5 heads"),
        (without("mask_token"), {}, "file.pth lacks mask_token"),
        (without("encoder.1.norm1.weight"), {"heads": 4}, "it has no encoder.blocks.1.norm_attention.weight"),
        (lambda w: {**w, "extra.weight": w["mask_token"]}, {"heads": 4}, "no place for: extra.weight"),
        (
            lambda w: {**w, "encoder_embeddings.tok_rgb@24.mod_emb": w["mask_token"]},
            {},
            "modality 'tok_rgb@24', which the catalogue of 4M .* does not have. Did you mean 'tok_rgb@224'",
        ),
        (
            lambda w: {**w, "encoder_embeddings.caption.token_emb.weight": torch.zeros(9, 16)},
            {},
            "9 words of caption, the catalogue of 4M 30000",
        ),
        (lambda w: {**w, f"{CAPTION}.mod_emb": w["mask_token"]}, {"heads": 4}, "two vectors for the modality caption"),
        (
            lambda w: {**w, "encoder_embeddings.tok_semseg@224.pos_emb": torch.zeros(1, 256, 16)},
            {"heads": 4},
            "other places in tok_semseg@224",
        ),
    ],
)
def test_what_cannot_be_imported_is_told(change, options, words, tmp_path):
    torch.save(change(made()[1]), tmp_path / "file.pth")
    with pytest.raises(UserError, match=words):
        read_published(tmp_path / "file.pth", **options)


def test_a_folder_without_weights_and_a_damaged_configuration_are_told(tmp_path, capsys):
    with pytest.raises(UserError, match="does not exist"):
        read_published(tmp_path)
    folder = written(tmp_path, made()[1], {"num_heads": 4}, "hub")
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="configuration of .* is damaged"):
        read_published(folder)
    (folder / "config.json").write_text('{"num_heads": 4}')
    with pytest.raises(UserError, match="with 4 heads, not 2"):
        read_published(folder, heads=2)


def test_other_modalities_have_no_published_file():
    other = [*FEW[:1], Modality("words", 9, 50, kind="sequence")]
    with pytest.raises(UserError, match="its own catalogue of modalities, in which there is no such 'words': export"):
        write_published(Model({"backbone": made(other)[0]}, {}))
