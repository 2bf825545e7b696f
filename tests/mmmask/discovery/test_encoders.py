"""Encoders see each look at a sample as one vector, and what is absent not at all."""

import json
import shutil

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from mmmask.discovery import (
    BackboneEncoder,
    OpenClipPictures,
    OpenClipTexts,
    PretrainedPictures,
    PretrainedTexts,
    Towers,
    Vectors,
)
from mmmask.errors import UserError
from mmmask.tokenizers import Choice, Patches
from mmmask.transformer import FourM

TEXTS = ["a red shoe", "", "two green hats"]


def pictures(size=40):
    return torch.randint(256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A ViT and a BERT of transformers, very small, as save_pretrained leaves them."""
    from transformers import BertConfig, BertModel, ViTConfig, ViTModel

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("towers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    ViTModel(ViTConfig(image_size=16, patch_size=8, **sizes), add_pooling_layer=False).save_pretrained(root / "vit")
    preprocessor = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (root / "vit" / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    BertModel(BertConfig(vocab_size=30, max_position_embeddings=12, **sizes), False).save_pretrained(root / "bert")
    words = {word: n for n, word in enumerate(["[PAD]", "[UNK]", "a", "red", "shoe", "two", "green", "hats"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(root / "bert" / "tokenizer.json"))
    return root


def test_towers_see_each_look_as_one_vector_and_nothing_of_what_is_absent(folders):
    looks = {
        "photo": PretrainedPictures(folders / "vit"),
        "title": PretrainedTexts(folders / "bert", length=8),
        "clip": Vectors(5, source="vectors"),
    }
    encoder = Towers(looks).eval()
    assert encoder.widths == {"photo": 16, "title": 16, "clip": 5}
    assert encoder.entries() == ["photo", "title", "vectors"]
    vectors = torch.tensor([[1.0, 2, 3, 4, 5], [0.0] * 5, [1, float("nan"), 3, 4, 5]])
    batch = {"photo": pictures(), "title": TEXTS, "vectors": vectors}
    batch["present"] = {"photo": torch.tensor([True, True, False]), "vectors": torch.tensor([True, True, False])}
    seen = encoder(encoder.read([batch, batch]))
    assert {name: some.vectors.shape for name, some in seen.items()} == {
        "photo": (6, 16),
        "title": (6, 16),
        "clip": (6, 5),
    }
    assert seen["photo"].there.tolist() == [True, True, False] * 2
    assert seen["title"].there.tolist() == [True, False, True] * 2
    assert seen["clip"].there.tolist() == [True, False, False] * 2
    assert not any(some.vectors[~some.there].any() for some in seen.values())
    alone = encoder(encoder.read([{"photo": pictures()[2:], "title": TEXTS[2:], "vectors": torch.ones(1, 5)}]))
    torch.testing.assert_close(alone["title"].vectors[0], seen["title"].vectors[2], atol=1e-5, rtol=1e-4)  # no padding


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_vectors_that_are_no_numbers_are_told_by_their_key(wrong):
    encoder = Towers({"clip": Vectors(2)})
    batch = {"key": ["one", "other"], "clip": torch.tensor([[1.0, 2], [1, wrong]])}
    for present in ({}, {"present": {"clip": torch.tensor([True, True])}}):
        with pytest.raises(UserError, match="sample 'other': 'clip' has numbers that are NaN or infinite"):
            encoder.read([batch | present])
    lacks = batch | {"present": {"clip": torch.tensor([True, False])}}
    assert encoder(encoder.read([lacks]))["clip"].there.tolist() == [True, False]


def test_pictures_come_in_the_size_and_colours_of_the_network(folders):
    tower = PretrainedPictures(folders / "vit").eval()
    grey = tower.pixels(torch.full((1, 1, 40, 40), 0.5))
    assert grey.shape == (1, 3, 16, 16)
    torch.testing.assert_close(grey[0, :, 0, 0], torch.tensor([0.1 / 0.2, 0.0, -0.1 / 0.4]))
    torch.testing.assert_close(tower(pictures().float() / 255), tower(pictures()))


def test_a_network_without_a_token_of_the_class_is_read_by_the_mean_of_its_tokens(folders, tmp_path):
    from transformers import SwinConfig, SwinModel

    sizes = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
    swin = SwinModel(SwinConfig(image_size=16, patch_size=2, **sizes), add_pooling_layer=False)
    swin.save_pretrained(tmp_path)
    shutil.copy(folders / "vit" / "preprocessor_config.json", tmp_path)
    tower = PretrainedPictures(tmp_path).eval()
    features = swin.eval()(tower.pixels(pictures())).last_hidden_state
    assert tower.width == features.shape[2] == 16
    torch.testing.assert_close(tower(pictures()), features.mean(1))
    vit = PretrainedPictures(folders / "vit").eval()
    states = vit.net(vit.pixels(pictures())).last_hidden_state
    torch.testing.assert_close(vit(pictures()), states[:, 0])


@pytest.fixture
def clip(tmp_path):
    """The name of a very small model of open_clip, and a file of its weights."""
    import open_clip

    sizes = {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
    words = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3}
    made = {"embed_dim": 8, "vision_cfg": sizes, "text_cfg": words}
    (tmp_path / "very-small.json").write_text(json.dumps(made))
    open_clip.add_model_config(tmp_path / "very-small.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model("very-small").state_dict(), tmp_path / "weights.pt")
    return "very-small", tmp_path / "weights.pt"


def test_both_sides_of_an_open_clip_model_are_those_of_its_file(clip):
    import open_clip

    whole = open_clip.create_model(clip[0], pretrained=str(clip[1])).eval()
    photo, title = OpenClipPictures(*clip).eval(), OpenClipTexts(*clip).eval()
    raw = pictures(16)
    mean, spread = (torch.tensor(part).view(-1, 1, 1) for part in (whole.visual.image_mean, whole.visual.image_std))
    torch.testing.assert_close(photo(raw), whole.encode_image((raw / 255 - mean) / spread))
    torch.testing.assert_close(title(TEXTS), whole.encode_text(open_clip.get_tokenizer(clip[0])(TEXTS)))
    assert (len(photo.blocks()), len(title.blocks()), photo.width, title.width) == (2, 3, 8, 8)


@pytest.mark.parametrize("kind", ["transformers", "open_clip"])
def test_what_is_exported_is_made_again_without_its_files(folders, clip, kind):
    if kind == "transformers":
        made = [PretrainedPictures(folders / "vit"), PretrainedTexts(folders / "bert", length=8)]
        specs = [{"folder": "vit"}, {"folder": "bert", "length": 8}]
    else:
        made = [OpenClipPictures(*clip), OpenClipTexts(*clip)]
        specs = [{"model": clip[0], "pretrained": "file"}] * 2
    for tower, spec, raw in zip(made, specs, (pictures(), TEXTS), strict=True):
        kept = json.loads(json.dumps(tower.portable({"class_path": "", "init_args": spec})))
        again = type(tower)(**kept["init_args"])
        again.load_state_dict(tower.state_dict())
        torch.testing.assert_close(again.eval()(raw), tower.eval()(raw))


def test_in_places_a_grid_keeps_where_things_are_and_the_mean_of_others_counts_as_much_as_it():
    torch.manual_seed(0)
    codecs = {"pixels": Patches(16, 3, 8, source="photo"), "kind": Choice(["hat", "shoe"])}
    looks = {"both": ["pixels", "kind"], "kind": ["kind"]}
    encoder = BackboneEncoder(codecs, lambda known: FourM(known, 8, 0, 0, 2), looks, pool="places").eval()
    assert encoder.widths == {"both": 5 * 8, "kind": 8}
    picture = pictures(16).float() / 255
    batch = {"photo": picture, "kind": ["hat", "shoe", "hat"]}
    seen = encoder(encoder.read([batch]))
    other = picture.clone()
    other[:, :, :8, 8:] = 0.5  # the second patch
    changed = encoder(encoder.read([batch | {"photo": other}]))["both"].vectors
    moved = (changed - seen["both"].vectors).abs().sum(0).view(5, 8).sum(1)
    assert [bool(part > 0) for part in moved] == [False, True, False, False, False]
    torch.testing.assert_close(seen["both"].vectors[:, 32:], 2 * seen["kind"].vectors)  # four places
    absent = encoder(encoder.read([batch | {"present": {"photo": torch.tensor([True, False, True])}}]))
    assert not absent["both"].vectors[1, :32].any()
    assert absent["both"].there.tolist() == [True] * 3


def test_texts_that_are_all_empty_are_seen_too(folders):
    tower = PretrainedTexts(folders / "bert", length=8).eval()
    assert tower(["", ""]).shape == (2, 16)
    assert not tower.there(["", " "]).any()


def test_weights_of_half_precision_learn_in_whole(folders, tmp_path):
    from transformers import AutoModel

    AutoModel.from_pretrained(folders / "vit").to(torch.bfloat16).save_pretrained(tmp_path / "half")
    (tmp_path / "half" / "preprocessor_config.json").write_text("{}")
    assert {weight.dtype for weight in PretrainedPictures(tmp_path / "half").parameters()} == {torch.float32}


def test_only_the_last_blocks_of_each_tower_learn(folders):
    towers = {"photo": PretrainedPictures(folders / "vit"), "title": PretrainedTexts(folders / "bert", length=8)}
    encoder = Towers(towers | {"vectors": Vectors(3)})  # which has no blocks
    encoder.train_last(1)
    learning = {name for name, weight in encoder.named_parameters() if weight.requires_grad}
    assert learning
    assert all(".2." in name for name in learning)
    assert {name.split(".")[1] for name in learning} == {"photo", "title"}
    with pytest.raises(UserError, match="train_blocks is 4; there are 3 blocks"):
        encoder.train_last(4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: OpenClipPictures("ViT-B-33"), "no model 'ViT-B-33'.*Did you mean 'ViT-B-32'"),
        (
            lambda root: OpenClipPictures("ViT-B-32", root / "no.pt"),
            "there is no file .*no.pt with weights",
        ),
        (lambda root: OpenClipPictures("ViT-B-32"), "give the file of its weights"),
        (lambda root: OpenClipTexts("ViT-B-32", root / "bert" / "tokenizer.json"), "cannot make a ViT-B-32 of it"),
        (lambda root: OpenClipTexts("ViT-B-16-SigLIP", root / "x"), "needs timm/ViT-B-16-SigLIP from the Hub"),
        (lambda root: PretrainedTexts(root / "bert", length=13), "takes 1 to 12 words"),
        (lambda root: PretrainedPictures(root / "vit")(torch.zeros(1, 4, 16, 16)), "4 channels, expected 3 or 1"),
        (lambda root: BackboneEncoder({"k": Choice(["a", "b"])}, None, pool="place"), "pool is 'place'"),
        (lambda root: Towers({"a": Vectors(3)}).train_last(1), "no blocks that attend"),
        (lambda root: PretrainedPictures(root), "holds no model of transformers"),
        (lambda root: PretrainedPictures(root / "bert"), "has no preprocessor_config.json"),
        (lambda root: PretrainedTexts(root / "vit"), "has no tokenizer.json"),
        (lambda root: PretrainedTexts(), "is made of a folder"),
        (lambda root: Towers({}), "there is no look"),
        (lambda root: Vectors(0), "width is 0"),
        (lambda root: Towers({"a": Vectors(3)}).read([{"b": torch.ones(1, 3)}]), "the batch has no 'a' to look at"),
        (lambda root: Vectors(3)(torch.ones(2, 4)), r"the batch holds \(2, 4\), expected \(samples, 3\)"),
    ],
)
def test_what_cannot_be_is_told(folders, make, words):
    with pytest.raises(UserError, match=words):
        make(folders)
