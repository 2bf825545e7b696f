"""`mmmask tokenize` of several modalities: aligned tokens, or a sentence."""

import pytest
import torch

from datamodules import Array, Image, ShardData, ShardSet
from mmmask.cli import models
from mmmask.errors import UserError
from mmmask.tokenizers import CosineQuantizer, Normals, VectorTokenizer, ViTTokenizer
from tasks import TokenizerTraining


@pytest.fixture
def trained(monkeypatch):
    """Run folders that need not be there: name -> task and reader."""
    torch.manual_seed(0)

    def of_pictures(modality, **settings):
        tokenizer = ViTTokenizer(CosineQuantizer(16, 4), 32, 3, 8, dim=16, heads=2, width=4, **settings)
        tokenizer(torch.rand(64, 3, 32, 32))  # places its codes
        return TokenizerTraining(tokenizer, modality=modality).eval(), Image("jpg", 32)

    vectors = VectorTokenizer(CosineQuantizer(16, 4), 4, tokens=2, width=8)
    vectors(4 * torch.rand(64, 4))
    runs = {
        "rgb": of_pictures("rgb"),
        "rgb2": of_pictures("rgb"),
        "normals": of_pictures("normals", content=Normals()),
        "clip": (TokenizerTraining(vectors, modality="clip").eval(), Array("npy")),
    }
    monkeypatch.setattr(models, "_trained_tokenizer", lambda run, field, alone: runs[run.name])
    return runs


def test_tokens_of_all_modalities_of_a_sample_are_written_together(trained, make_shards, tmp_path):
    shards = make_shards([3, 2])
    models.tokenize("rgb,clip", shards, tmp_path / "tokens")
    assert ShardSet(str(tmp_path / "tokens")).fields == ["clip.npy", "cls", "rgb.npy", "txt"]
    (raw,) = ShardData(shards, {"rgb": Image("jpg", 32), "clip": Array("npy")}, val=shards).val_dataloader()
    readers = {"rgb": Array("rgb.npy"), "clip": Array("clip.npy")}
    (ids,) = ShardData(str(tmp_path / "tokens"), readers, val=str(tmp_path / "tokens")).val_dataloader()
    assert raw["key"] == ids["key"]
    for name in ("rgb", "clip"):
        assert ids[name].equal(trained[name][0].tokens(raw)[name])


def test_crops_of_several_modalities_are_samples_of_their_own(trained, make_shards, tmp_path):
    models.tokenize("rgb,normals", make_shards([3]), tmp_path / "tokens", crops=2)
    made = ShardSet(str(tmp_path / "tokens"))
    assert made.fields == ["cls", "crop.json", "normals.npy", "rgb.npy", "txt"]
    assert [made.shards[0].key(row) for row in range(6)] == [f"{n:06d}-{copy}" for copy in (0, 1) for n in range(3)]


def test_what_does_not_go_together_is_one_sentence(trained, make_shards, tmp_path):
    shards = make_shards([2])
    for runs, options, words in (
        ("rgb, rgb2", {}, "two of the tokenizers are for 'rgb', the second is rgb2"),
        ("rgb,normals", {"flip": True, "crops": 2}, "normals is for normals, which a mirror turns"),
        ("rgb,clip", {"crops": 2}, "'npy' is read by Array, which has no crops"),
    ):
        with pytest.raises(UserError, match=words):
            models.tokenize(runs, shards, tmp_path / "tokens", **options)


def test_an_exported_tokenizer_is_refused_beside_others(tmp_path):
    with pytest.raises(UserError, match="does not know its modality: give run folders"):
        models.tokenize(f"{tmp_path / 'a.safetensors'},{tmp_path / 'b.safetensors'}", "shards", tmp_path / "tokens")
