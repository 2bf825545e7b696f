"""From captions to pictures: a tiny CLIP on disk, a training on captions, generation, CLIP score."""

import json

import pytest
import torch
import transformers
from small_generators import tokenizer_of

from mmmask.cli import main
from mmmask.errors import UserError
from mmmask.metrics import Classifier, ClipScore
from mmmask.pretrained.model_files import Model, build, write
from mmmask.tokenizers import TextEncoder
from mmmask.transformer import AutoNAT
from tasks.image_synthesis import ImageSynthesis

WORDS = ["a", "red", "blue", "dog", "cat"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A CLIP with random weights, and its tokenizer and image processor."""
    folder = tmp_path_factory.mktemp("clip")
    letters = sorted({letter for word in WORDS for letter in word})
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(vocabulary), "max_position_embeddings": 16, "projection_dim": 8}
    ends = {
        "bos_token_id": len(vocabulary) - 2,
        "eos_token_id": len(vocabulary) - 1,
        "pad_token_id": len(vocabulary) - 1,
    }
    config = transformers.CLIPConfig(
        text_config={**text, **ends}, vision_config={**small, "image_size": 16, "patch_size": 8}, projection_dim=8
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    transformers.CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def test_texts_become_vectors_that_differ_and_repeat(clip):
    encoder = TextEncoder(clip)
    vectors = encoder(["a red dog", "a blue dog", "a red dog"])
    assert vectors.shape == (3, 16, 16)
    assert torch.equal(vectors[0], vectors[2])
    assert not torch.allclose(vectors[0], vectors[1])
    assert not encoder.state_dict()
    net = transformers.CLIPTextModel.from_pretrained(clip)
    words = encoder.words(["a red dog"], padding="max_length", max_length=16, return_tensors="pt")
    assert torch.allclose(net(**words).last_hidden_state[0], vectors[0], atol=1e-6)


def test_clip_score_is_the_cosine(clip):
    torch.manual_seed(0)
    images, captions = torch.rand(3, 3, 16, 16), ["a red dog", "a cat", "blue"]
    score = ClipScore(clip)
    score.add(images[:2], captions[:2])
    score.add(images[2:], captions[2:])
    model, processor = transformers.CLIPModel.from_pretrained(clip), transformers.CLIPProcessor.from_pretrained(clip)
    seen = processor(text=captions, images=list((images * 255).round().byte()), return_tensors="pt", padding=True)
    expected = model(**seen).logits_per_image.diagonal() / model.logit_scale.exp()
    assert score.compute() == pytest.approx(100 * expected.clamp(min=0).mean().item(), abs=1e-3)


TOKENIZER = tokenizer_of(image_size=16, patch=4, words=12)
BACKBONE = {
    "class_path": "mmmask.transformer.AutoNAT",
    "init_args": {
        "vocab_size": 12,
        "tokens": 16,
        "text_length": 16,
        "text_channels": 16,
        "dim": 16,
        "depth": 3,
        "heads": 2,
    },
}


@pytest.fixture
def model(clip, tmp_path):
    specs = {
        "generator": {"class_path": "mmmask.synthesis.ImageGenerator", "init_args": {"backbone": BACKBONE}},
        "tokenizer": TOKENIZER,
        "text_encoder": {"class_path": "mmmask.tokenizers.TextEncoder", "init_args": {"folder": str(clip)}},
    }
    torch.manual_seed(0)
    parts = {name: build(spec) for name, spec in specs.items()}
    for parameter in parts["generator"].parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    parts["tokenizer"](torch.rand(8, 3, 16, 16))
    write(tmp_path / "model", Model(parts, specs), "")
    return tmp_path / "model"


def test_captions_are_drawn_and_scored(clip, model, tmp_path, capsys):
    draw = ["generate", "--checkpoint", str(model), "--n", "2", "--steps", "3"]
    assert main([*draw, "--text", "a red dog", "a cat, blue", "--out", str(tmp_path / "a.png")]) == 0
    assert main([*draw, "--text", "a cat, blue", "a red dog", "--out", str(tmp_path / "b.png")]) == 0
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
    judge = {"class_path": "mmmask.metrics.Classifier", "init_args": {"classes": 2, "channels": 3, "dim": 8}}
    write(tmp_path / "judge", Model({"judge": Classifier(2, 3, 8)}, {"judge": judge}), "")
    (tmp_path / "captions.txt").write_text("a red dog\na cat\n")
    options = ["--judge", tmp_path / "judge", "--captions", tmp_path / "captions.txt", "--clip", clip, "--n", 12]
    options += ["--out", tmp_path / "scores.jsonl"]
    assert main(["evaluate", "--checkpoint", str(model), *map(str, options)]) == 0
    row = json.loads((tmp_path / "scores.jsonl").read_text())
    assert 0 <= row["clip_score"] <= 100
    assert "consistency" not in row
    assert main(["generate", "--checkpoint", str(model), "--class", "1"]) == 2
    assert "give either --text, or --vectors" in capsys.readouterr().err


def test_captions_are_learned_from_and_without_an_encoder_it_is_told(clip):
    backbone = AutoNAT(12, 16, text_length=16, text_channels=16, dim=16, depth=3, heads=2)
    batch = {"key": ["0", "1"], "image": torch.randint(12, (2, 4, 4)), "caption": ["a red dog", "a cat"]}
    task = ImageSynthesis(backbone, text_encoder=TextEncoder(clip), given="caption")
    vectors = task._given(batch)
    assert torch.equal(vectors, TextEncoder(clip)(batch["caption"]))
    assert not [name for name in task.state_dict() if "text_encoder" in name]
    with pytest.raises(UserError, match="'caption' holds captions; set text_encoder"):
        ImageSynthesis(backbone, given="caption")._given(batch)


def test_folders_without_a_clip_are_told(tmp_path):
    with pytest.raises(UserError, match="holds no text model of CLIP"):
        TextEncoder(tmp_path)
    with pytest.raises(UserError, match="holds no CLIP"):
        ClipScore(tmp_path)
