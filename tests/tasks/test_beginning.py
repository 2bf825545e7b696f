"""`init_from`: one key lets a task begin with any trained backbone; all tasks have the one class of backbone."""

import ast
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from small_any_to_any import WORDS, codecs
from small_generators import tokenizer_of

from mmmask.cli import main
from mmmask.discovery import BackboneEncoder
from mmmask.heads import ClassHead
from mmmask.metrics import EncoderClassifier
from mmmask.modalities import Modality
from mmmask.pretrained.model_files import Model, build, write
from mmmask.synthesis import AnyToAny, ImageGenerator, Recognition
from mmmask.synthesis.target import Target
from mmmask.tokenizers import Bitmap, Boxes, Pictures, Strokes, Words
from mmmask.transformer import ENAT, AutoNAT, FourM, MaskedTransformer
from tasks.beginning import begin_as_codes
from tasks.finished import model_of
from tasks.image_synthesis import ImageSynthesis

ROOT = Path(__file__).parents[2]
SIZES = {"dim": 16, "encoder_depth": 2, "heads": 2}
RGB = {"name": "rgb@224", "length": 16, "channels": 48}
READERS = {
    "image": {"class_path": "Image", "init_args": {"field": "jpg", "size": 16, "channels": 3}},
    "label": {"class_path": "Label"},
}


def spec(*modalities, **changes):
    own = [{"class_path": "mmmask.modalities.Modality", "init_args": m} for m in modalities]
    return {"class_path": "mmmask.transformer.FourM", "init_args": {"modalities": own, **SIZES, **changes}}


@pytest.fixture
def trained(tmp_path):
    """An exported any-to-any model."""
    torch.manual_seed(3)
    made = spec(RGB, {"name": "depth", "length": 16, "vocab_size": 24}, decoder_depth=1)
    write(tmp_path / "any", Model({"backbone": build(made)}, {"backbone": made}), "")
    return tmp_path / "any"


def fit(tmp_path, make_shards, task, *options):
    config = {
        "trainer": {"accelerator": "cpu", "max_steps": 2, "default_root_dir": str(tmp_path / "runs")},
        "model": task,
        "data": {
            "class_path": "ShardData",
            "init_args": {"train": make_shards([8]), "batch_size": 4, "modalities": READERS},
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return main(["fit", "--config", str(tmp_path / "config.json"), *options])


def classifier(**settings):
    backbone = spec(RGB, decoder_depth=0)
    made = {"class_path": "mmmask.metrics.EncoderClassifier", "init_args": {"backbone": backbone, "classes": 3}}
    return {"class_path": "ClassifierTraining", "init_args": {"classifier": made, "lr": 1e-9, **settings}}


def test_a_classifier_begins_with_an_encoder_by_one_key(trained, tmp_path, make_shards, capsys):
    assert fit(tmp_path, make_shards, classifier(), "--model.init_from", str(trained)) == 0
    told = (tmp_path / "runs/run-1/init_from.txt").read_text()
    assert "loaded   encoder.blocks.1.attention.qkv.weight" in told
    assert "unused   embedding.depth.words: this one has none" in told
    assert "weights, 0 are fresh" in capsys.readouterr().out
    theirs = load_file(trained / "model.safetensors")
    ours = model_of(tmp_path / "runs/run-1").parts["classifier"].backbone.state_dict()
    name = "encoder.blocks.1.mlp.up.weight"
    assert torch.allclose(ours[name], theirs[f"backbone.{name}"], atol=1e-6)
    # What was begun so can be resumed, and begin another, when the source is gone.
    trained.rename(tmp_path / "gone")
    last = tmp_path / "runs/run-1/checkpoints/last.ckpt"
    assert fit(tmp_path, make_shards, classifier(init_from=str(trained)), "--ckpt_path", str(last)) == 0
    assert fit(tmp_path, make_shards, classifier(init_from=str(tmp_path / "runs/run-1"))) == 0


def test_what_cannot_begin_is_told(trained, tmp_path, make_shards, capsys):
    small = {"class_path": "mmmask.metrics.Classifier", "init_args": {"classes": 3, "channels": 3, "dim": 8}}
    wrong = {"class_path": "ClassifierTraining", "init_args": {"classifier": small, "init_from": str(trained)}}
    assert fit(tmp_path, make_shards, wrong) == 2
    assert "a Classifier has no backbone to begin with" in capsys.readouterr().err
    nat = {"vocab_size": 9, "tokens": 16, "classes": 3, "dim": 8, "depth": 1, "heads": 2}
    synthesis = {"backbone": {"class_path": "mmmask.transformer.AutoNAT", "init_args": nat}, "init_from": str(trained)}
    assert fit(tmp_path, make_shards, {"class_path": "ImageSynthesis", "init_args": synthesis}) == 2
    assert "nothing of the model to begin with fits this backbone" in capsys.readouterr().err


def test_image_synthesis_begins_with_the_words_it_has_in_common(trained, tmp_path):
    target = AutoNAT(24, 16, 3, dim=16, depth=1, heads=2)
    task = ImageSynthesis(target, init_from=trained)
    task._trainer = SimpleNamespace(log_dir=None, default_root_dir=tmp_path, is_global_zero=True)
    task.setup("test")
    assert not (tmp_path / "init_from.txt").exists()
    task.setup("fit")
    assert "image begins as depth, the only one of its kind" in (tmp_path / "init_from.txt").read_text()
    assert torch.equal(target.embedding.table("image"), model_of(trained).parts["backbone"].embedding.table("depth"))


def test_all_tasks_have_the_one_backbone():
    """Synthesis, any-to-any models, classification, fine-tuning and discovery differ in what they do with it."""
    own = codecs()
    fourm = FourM([codec.modality(name) for name, codec in own.items()], **SIZES, decoder_depth=1)
    for backbone in (
        ImageGenerator(ENAT(24, 16, 3, **SIZES, decoder_depth=1)).backbone,
        ImageGenerator(AutoNAT(24, 16, 3, dim=16, depth=1, heads=2)).backbone,
        AnyToAny(fourm, own).backbone,
        Target(fourm, "ink").backbone,
        EncoderClassifier(FourM([Modality(**RGB)], **SIZES, decoder_depth=0), 3).backbone,
        Recognition(fourm, own, ClassHead(16, 3)).backbone,
        BackboneEncoder(own, lambda modalities: FourM(modalities, **SIZES, decoder_depth=0)).backbone,
    ):
        assert isinstance(backbone, MaskedTransformer)
        assert type(backbone).forward is MaskedTransformer.forward
        assert type(backbone).encode is MaskedTransformer.encode
        assert type(backbone).decode is MaskedTransformer.decode


def test_nobody_else_defines_encode_and_decode_of_asked_tokens():
    """No second backbone: one class alone encodes what is known and decodes what is asked, and stacks of blocks are
    made for no other."""
    found, stacking = [], {}
    for node in classes("mmmask", "tasks", "datamodules"):
        arguments = {f.name: {a.arg for a in f.args.args} for f in node.body if isinstance(f, ast.FunctionDef)}
        if "known" in arguments.get("encode", ()) and {"asked", "memory"} <= arguments.get("decode", set()):
            found.append(node.name)
        if any(isinstance(n, ast.Call) and ast.unparse(n.func).split(".")[-1] == "Stack" for n in ast.walk(node)):
            stacking[node.name] = [ast.unparse(base) for base in node.bases]
    assert found == ["MaskedTransformer"]
    assert stacking == {family: ["MaskedTransformer"] for family in ("AutoNAT", "ENAT", "FourM")}


def classes(*packages):
    for path in (path for package in packages for path in (ROOT / package).rglob("*.py")):
        yield from (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef))


def test_coordinates_begin_alike_where_they_are_near_and_blocks_where_bits_agree():
    torch.manual_seed(0)
    strokes, ink, boxes = Strokes(105, 16, 4), Bitmap(9, 3), Boxes(["a", "b"], 15)
    codecs = {"pen": strokes, "ink": ink, "boxes": boxes}
    backbone = FourM([codec.modality(name) for name, codec in codecs.items()], 64, 1, 1, 2)
    before = {name: backbone.embedding.table(name).clone() for name in codecs}
    begin_as_codes(backbone, codecs)
    first = int(strokes.encode([[[[0, 0]]]]).ids[0, 0])  # of 16 x 16 places
    for table in (backbone.embedding.table, backbone.embedding.answer_table):
        pen, bits = table("pen").detach(), table("ink").detach()
        places = pen[first:].unflatten(0, (16, 16))
        for line in (places[0], places[:, 0], places[:, 9], places[range(16), range(16)]):
            distances = torch.cdist(line, line)
            assert (distances[0, 1:4].diff() > 0).all()
            assert distances.diagonal(1).max() < distances.diagonal(6).min()
        distances = torch.cdist(bits[:1], bits[[0b1, 0b11, 0b111, 0b11111, 0b111111111]])[0]
        assert (distances.diff() > 0).all()
    changed = {name: (backbone.embedding.table(name) != before[name]).any(1) for name in codecs}
    assert changed["ink"].all()
    assert changed["pen"].nonzero().flatten().tolist() == list(range(first, first + 256))
    assert changed["boxes"].sum() == 4 * 16
    assert not changed["boxes"][-2:].any()


def test_words_of_pictures_begin_as_alike_as_the_codes_of_their_tokenizer():
    torch.manual_seed(0)
    pictures = Pictures(build(tokenizer_of(8, 2)))
    words = Words(WORDS, 8)
    backbone = FourM([pictures.modality("picture"), words.modality("caption")], 32, 1, 1, 2, answer_std=0.1)
    captions = backbone.embedding.table("caption").clone()
    begin_as_codes(backbone, {"picture": pictures, "caption": words})
    codes = pictures.tokenizer.quantizer.codes(torch.arange(24))
    pairs = tuple(torch.triu_indices(24, 24, 1))
    alike = torch.cdist(codes, codes)[pairs]
    for table, std in ((backbone.embedding.table, 0.02), (backbone.embedding.answer_table, 0.1)):
        found = torch.cdist(table("picture"), table("picture"))[pairs]
        assert torch.corrcoef(torch.stack([alike, found]))[0, 1] > 0.8
        assert table("picture").std().item() == pytest.approx(std, rel=0.3)
    assert torch.equal(backbone.embedding.table("caption"), captions)
