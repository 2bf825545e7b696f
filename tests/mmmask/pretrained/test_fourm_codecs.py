"""A published 4M with the text tokenizer that comes with it can be asked."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mmmask.catalogue import FOURM_21, KNOWN
from mmmask.cli import main
from mmmask.errors import UserError
from mmmask.pretrained.fourm import write_fourm
from mmmask.pretrained.fourm_models import with_codecs
from mmmask.pretrained.model_files import Model, read
from mmmask.pretrained.published import read_published
from mmmask.tokenizers import learn_words
from mmmask.transformer import FourM

FEW = [KNOWN[name] for name in ("rgb@224", "tok_semseg@224", "caption", "det")]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """Laid out as the published one: 200 sentinels, 4,000 coordinates, classes, 30,000 words in all."""
    learnt = learn_words(["a red dog"], 4400, sentinels=200, coordinates=1000, classes=["dog", "traffic light"])
    content = json.loads(learnt.to_str())
    words = content["model"]["vocab"]
    words |= {f"word{number}": number for number in range(len(words), 30_000)}
    path = tmp_path_factory.mktemp("words") / "words.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Small, with random weights, under published names."""
    torch.manual_seed(0)
    backbone = FourM(FEW, dim=16, encoder_depth=1, decoder_depth=1, heads=2)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp("published") / "4M.safetensors"
    weights = {name: value.clone() for name, value in write_fourm(backbone.state_dict(), FEW).items()}
    save_file(weights, path, {"num_heads": "2"})
    return path


@pytest.fixture(scope="module")
def imported(checkpoint, vocabulary):
    path = checkpoint.parent / "fourm"
    assert main(["import", str(checkpoint), str(path), "--vocabulary", str(vocabulary)]) == 0
    return path


def test_it_is_asked_on_the_command_line(imported, tmp_path, capsys):
    Image.new("RGB", (300, 300), "red").save(tmp_path / "red.png")
    np.save(tmp_path / "ids.npy", np.zeros((14, 14), dtype=np.int64))
    options = ["--checkpoint", str(imported), "--out", str(tmp_path / "out")]
    given = [f"rgb@224={tmp_path / 'red.png'}", f"tok_semseg@224={tmp_path / 'ids.npy'}", "det=v0=1 v1=2 v2=3 v3=4 dog"]
    assert main(["predict-modality", *options, "--given", *given, "--want", "caption"]) == 0
    assert "caption: " in capsys.readouterr().out
    options += ["--steps", "2"]
    assert main(["predict-modality", *options, "--given", "caption=a red dog", "--want", "tok_semseg@224"]) == 0
    ids = list(map(int, (tmp_path / "out" / "tok_semseg@224.txt").read_text().split()))
    assert len(ids) == 196
    assert max(ids) < 4096


def test_what_it_is_given_are_the_tokens_that_4m_was_trained_on(imported):
    model = read(imported).part("any_to_any", imported)
    white = torch.ones(1, 3, 224, 224)
    known = model.read({"rgb@224": white, "caption": ["a ___"], "det": ["v0=1 v1=2 v2=3 v3=999 traffic light"]}, [
        "rgb@224", "caption", "det",
    ])  # fmt: skip
    first = 4 + 200  # after [PAD] [UNK] [SOS] [EOS] and the sentinels
    det = known["det"]
    box = [first + 1, first + 1000 + 2, first + 2000 + 3, first + 3000 + 999, first + 4000 + 1]
    assert det.ids[0, : det.length[0]].tolist() == [*box, 3]  # each sequence ends with [EOS]
    assert known["caption"].ids[0, 1:3].tolist() == [5, 3]  # [S_1] is the first that 4M uses
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(known["rgb@224"].values[0, 0].view(256, 3), (1 - mean) / spread)


def test_it_goes_back_as_without_codecs(imported, checkpoint, tmp_path):
    assert main(["export", str(imported), str(tmp_path / "back.safetensors"), "--published"]) == 0
    before, after = (
        read_published(path).parts["backbone"].state_dict() for path in (checkpoint, tmp_path / "back.safetensors")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len((imported / "README.md").read_text()) < 5000  # the words are not in it


def test_every_modality_of_4m_has_a_codec(vocabulary):
    backbone = FourM(FOURM_21, dim=8, encoder_depth=1, decoder_depth=1, heads=2)
    whole = with_codecs(Model({"backbone": backbone}, {"backbone": {}}), vocabulary, "it").parts["any_to_any"]
    assert whole.catalogue.names == [modality.name for modality in FOURM_21]
    with pytest.raises(UserError, match="t5_caption can be given, not asked"):
        whole.predict({"caption": ["a dog"]}, ["t5_caption"])


def test_a_backbone_alone_and_another_vocabulary_are_told(checkpoint, imported, tmp_path, capsys):
    assert main(["import", str(checkpoint), str(tmp_path / "alone")]) == 0
    assert main(["predict-modality", "--checkpoint", str(tmp_path / "alone"), "--want", "caption"]) == 2
    assert "is a backbone without codecs: import it with --vocabulary" in capsys.readouterr().err
    other = tmp_path / "other.json"
    other.write_text(learn_words(["a red dog"], 100).to_str())
    assert main(["import", str(checkpoint), str(tmp_path / "x"), "--vocabulary", str(other)]) == 2
    assert "give the text tokenizer that comes with 4M" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
