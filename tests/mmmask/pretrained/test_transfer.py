"""A trained backbone begins another: what fits comes over, what does not stays fresh with a reason."""

import pytest
import torch

from mmmask.errors import UserError
from mmmask.metrics import EncoderClassifier
from mmmask.modalities import Modality
from mmmask.pretrained.model_files import Model
from mmmask.pretrained.transfer import backbone_of, transfer
from mmmask.synthesis import ImageGenerator
from mmmask.synthesis.generator import Context
from mmmask.synthesis.target import Target
from mmmask.tokens import BLANK, Split, tokens_of
from mmmask.transformer import ENAT, FourM

RGB = Modality("rgb@224", 16, channels=12)
DEPTH = Modality("depth", 16, 40)
CLIP = Modality("clip", 4, 30, kind="vector")
TEXT = Modality("text", 9, 50, kind="sequence", sentinels=(0, 9))
SIZES = {"dim": 16, "encoder_depth": 2, "decoder_depth": 2, "heads": 2}


def backbone(*modalities, seed=0, **changes):
    torch.manual_seed(seed)
    made = FourM(modalities, **{**SIZES, **changes})
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def trained():
    return backbone(RGB, DEPTH, CLIP, TEXT)


def test_the_same_modalities_in_another_order_are_the_same_model():
    source, target = trained(), backbone(TEXT, CLIP, RGB, DEPTH, seed=1)
    report = transfer(target, source)
    assert not report.fresh
    assert not report.unused
    ids = torch.randint(30, (2, 4))
    asked = tokens_of(torch.full((2, 16), -1), 1), tokens_of(torch.full((2, 16), -1), 3)
    with torch.no_grad():
        theirs = source.decode(asked[0], source.encode(tokens_of(ids, 2)))
        ours = target.decode(asked[1], target.encode(tokens_of(ids, 1)))
    assert torch.allclose(theirs, ours, atol=1e-5)
    for name in ("depth", "text", "clip"):
        assert torch.equal(source.embedding.answer_table(name), target.embedding.answer_table(name))


def test_new_modalities_and_blocks_keep_their_fresh_weights():
    source, target = trained(), backbone(DEPTH, Modality("sound", 5, 7, kind="sequence"), seed=1, encoder_depth=3)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    report = transfer(target, source)
    assert torch.equal(target.embedding.table("depth"), source.embedding.table("depth"))
    assert torch.equal(target.embedding.table("sound"), before["embedding.words.weight"][40:])
    assert torch.equal(target.encoder.blocks[1].mlp.up.weight, source.encoder.blocks[1].mlp.up.weight)
    assert torch.equal(target.encoder.blocks[2].mlp.up.weight, before["encoder.blocks.2.mlp.up.weight"])
    assert report.fresh["embedding.sound.words"] == "the other has none"
    assert report.fresh["encoder.blocks.2.mlp.up.weight"] == "the other has none"
    assert report.unused["embedding.text.words"] == "this one has none"
    assert "fresh    embedding.sound.words: the other has none" in str(report)
    assert "unused   embedding.text.words: this one has none" in str(report)
    assert "3 fresh of embedding.sound: the other has none" in report.summary()
    assert "3 unused of embedding.text: this one has none" in report.summary()


def test_words_of_another_tokenizer_stay_fresh():
    report = transfer(backbone(Modality("depth", 16, 41), seed=1), trained())
    assert report.fresh["embedding.depth.words"] == "(40, 16) there, (41, 16) here"
    assert report.unused["embedding.depth.words"] == "(40, 16) there, (41, 16) here"
    assert "embedding.depth.kind" in report.loaded


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"heads": 4}, "2 heads there, 4 here"),
        ({"mlp": "gelu"}, "mlp is swiglu there, gelu here"),
        ({"qk_norm": True}, "qk_norm is False there, True here"),
    ],
)
def test_blocks_that_are_made_otherwise_stay_fresh(changes, reason):
    target = backbone(DEPTH, seed=1, **changes)
    before = target.encoder.blocks[0].attention.qkv.weight.clone()
    report = transfer(target, trained())
    name = "encoder.blocks.0.attention.qkv.weight"
    assert report.fresh[name] == report.unused[name] == reason
    assert torch.equal(target.encoder.blocks[0].attention.qkv.weight, before)
    assert torch.equal(target.embedding.table("depth"), trained().embedding.table("depth"))


def test_dropout_is_no_difference_between_blocks():
    source, target = trained(), backbone(RGB, DEPTH, CLIP, TEXT, seed=1, dropout=0.1)
    assert not transfer(target, source).fresh


def test_an_image_generator_of_mode_cross_takes_all_but_the_class():
    made = backbone(Modality("image", 16, 40), Modality("class", 1, 4, kind="set"), seed=1)
    generator, source = ImageGenerator(made), trained()
    report = transfer(generator.backbone, source)
    assert report.renamed == {"image": "depth"}  # the only grid of 16 out of 40
    assert "image begins as depth" in report.summary()
    assert {name.split(".")[1] for name in report.fresh} == {"class"}
    depth = Target(source, "depth")
    tokens, split = tokens_of(torch.randint(40, (2, 16))), Split(torch.arange(6)[None], torch.arange(6, 16)[None])
    split = split.map(lambda part: part.expand(2, -1))
    theirs, _ = depth(depth.tokens(tokens.ids), split, Context(None, None))
    ours, _ = generator(tokens, split, generator.context(torch.full((2,), BLANK)))
    assert torch.allclose(theirs, ours, atol=1e-5)


def test_of_two_that_are_alike_none_is_taken_for_a_third():
    source = backbone(DEPTH, Modality("normal", 16, 40), RGB)
    assert transfer(backbone(Modality("image", 16, 40), seed=1), source).renamed == {}


def test_a_classifier_takes_the_encoder():
    source = trained()
    classifier = EncoderClassifier(backbone(RGB, seed=1, decoder_depth=0), 3)
    report = transfer(classifier.backbone, source)
    assert not report.fresh
    assert {name.split(".")[0] for name in report.unused} == {"decoder", "embedding"}
    assert set(report.unused.values()) == {"this one has none"}
    image = torch.rand(2, 3, 8, 8)
    patch = 2 * image[:, :, 2:4, 4:6] - 1  # of row 1, column 2
    features = classifier.backbone.embedding.project["rgb@224"](patch.permute(0, 2, 3, 1).flatten(1))
    seen = []
    classifier.backbone.embedding.project["rgb@224"].register_forward_hook(lambda *given: seen.append(given[2]))
    assert classifier(image).logits.shape == (2, 3)
    assert torch.allclose(seen[0][:, 6], features, atol=1e-6)


def test_what_has_nothing_in_common_is_refused():
    with pytest.raises(UserError, match="nothing of the model .* fits .*encoders: 16 wide there, 32 here"):
        transfer(backbone(Modality("sound", 5, 7, kind="set"), dim=32), trained())
    with pytest.raises(UserError, match="nothing of the model"):
        transfer(ENAT(7, 9, 3, dim=16, encoder_depth=1, decoder_depth=1, heads=2), trained())


def test_any_model_with_a_backbone_is_a_beginning():
    source = trained()
    for parts in (
        {"backbone": source},
        {"any_to_any": torch.nn.ModuleDict({"backbone": source})},
        {"sampler": object(), "classifier": EncoderClassifier(source, 3)},
    ):
        assert backbone_of(Model(parts, {}), "it") is source
    with pytest.raises(UserError, match="it holds no backbone to begin with, only sampler"):
        backbone_of(Model({"sampler": object()}, {}), "it")


def test_a_model_whose_tokens_stand_at_other_places_is_refused():
    modalities = [Modality("image", 16, 8)]
    there, here = (FourM(modalities, 16, 1, 1, 2, places=places) for places in ("index", "picture"))
    with pytest.raises(UserError, match="has places: index, this backbone picture"):
        transfer(here, there)
