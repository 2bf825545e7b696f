"""Import, export, generate, evaluate: as a user would, from published files and runs to pictures and scores."""

import json

import numpy as np
import pytest
import torch
import yaml
from nat_reference import vectors
from PIL import Image
from small_generators import tokenizer_of

from datamodules import Array, Label, ShardData
from datamodules import Image as Picture
from mmmask.cli import main
from mmmask.metrics import Classifier
from mmmask.pretrained.model_files import Model, build, read, write
from mmmask.synthesis import ENATSchedule, Sampler
from tasks.samplers import sampler_of

TOKENIZER = tokenizer_of(image_size=32, patch=4)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The reference's small ENAT (64 tokens out of 24), with a tokenizer that fits it."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    tokenizer = build(TOKENIZER)
    tokenizer(torch.rand(8, 3, 32, 32))  # places the codes
    write(folder / "tokenizer", Model({"tokenizer": tokenizer}, {"tokenizer": TOKENIZER}), "")
    torch.save(vectors("enat_weights"), folder / "enat.pth")
    options = ["--heads", "4", "--encoder_depth", "3", "--tokenizer", str(folder / "tokenizer")]
    assert main(["import", str(folder / "enat.pth"), str(folder / "enat"), *options]) == 0
    return folder / "enat"


def generate(checkpoint, out, *options):
    return main(["generate", "--checkpoint", str(checkpoint), "--out", str(out), *map(str, options)])


def pixels(path):
    return np.asarray(Image.open(path))


def test_an_imported_model_draws_a_grid_a_strip_and_a_film(imported, tmp_path, capsys):
    options = ["--class", 3, 7, "--n", 2, "--steps", 3, "--strip", tmp_path / "s.png", "--gif", tmp_path / "s.gif"]
    options += ["--trace", tmp_path / "t.png"]
    assert generate(imported, tmp_path / "g.png", *options) == 0
    grid, strip = pixels(tmp_path / "g.png"), pixels(tmp_path / "s.png")
    assert grid.shape[0] == grid.shape[1]  # 2 classes x 2 images
    assert strip.shape[1] / strip.shape[0] == pytest.approx(3 / 2, rel=0.01)  # 3 steps x 2 classes
    assert Image.open(tmp_path / "s.gif").n_frames == 3
    assert Image.open(tmp_path / "t.png").width > 1500
    side = grid.shape[0] // 2
    last = strip[:side, -side:]
    assert np.abs(last.astype(int) - grid[:side, :side]).mean() < 12  # the last step is the image
    assert (strip[: side // 2, : side // 2] == 127).mean() > 0.5  # at the first most is grey


def test_images_of_a_seed_are_the_same_in_any_batch(imported, tmp_path):
    generate(imported, tmp_path / "a.png", "--class", "3,7", "--n", 3, "--batch_size", 4)
    generate(imported, tmp_path / "b.png", "--class", "3,7", "--n", 3, "--batch_size", 1)
    generate(imported, tmp_path / "d.png", "--classes", 3, 7, "--n", 3)  # as the help says it
    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")).all()
    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "d.png")).all()
    generate(imported, tmp_path / "c.png", "--class", "3,7", "--n", 3, "--seed", 9)
    assert (pixels(tmp_path / "a.png") != pixels(tmp_path / "c.png")).any()


def test_only_the_white_part_of_the_mask_is_drawn_anew(imported, tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[:, 16:] = 255
    Image.fromarray(picture).save(tmp_path / "p.png")
    Image.fromarray(mask).save(tmp_path / "m.png")
    both = ["--image", tmp_path / "p.png", "--mask", tmp_path / "m.png", "--class", 1]
    assert generate(imported, tmp_path / "a.png", *both, "--n", 1) == 0
    tokenizer = read(imported).parts["tokenizer"]
    seen = torch.from_numpy(pixels(tmp_path / "a.png").copy()).permute(2, 0, 1)[None] / 255
    seen = seen[..., 1:-1, 1:-1]  # the frame
    start = tokenizer.encode(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)
    start[:, :, 4:] = -1
    expected = Sampler(ENATSchedule()).sample(
        read(imported).parts["generator"], torch.tensor([1]), [0], start.flatten(1)
    )
    assert torch.equal(expected.view(1, 8, 8)[:, :, :4], start[:, :, :4])
    images = tokenizer.decode(expected.view(1, 8, 8))
    shrunk = torch.nn.functional.interpolate(seen, 32, mode="area")
    assert (shrunk - images).abs().mean() < 0.03


@pytest.fixture
def judge(tmp_path):
    spec = {"class_path": "mmmask.metrics.Classifier", "init_args": {"classes": 1000, "channels": 3, "dim": 8}}
    torch.manual_seed(1)
    write(tmp_path / "judge", Model({"judge": Classifier(1000, 3, 8)}, {"judge": spec}), "")
    return tmp_path / "judge"


def test_scores_come_with_all_settings(imported, judge, tmp_path, capsys):
    np.savez(tmp_path / "real.npz", mu=np.zeros(8), sigma=np.eye(8))
    options = ["--judge", judge, "--statistics", tmp_path / "real.npz", "--n", 20, "--steps", 2]
    options += ["--guidance", 1.5, "--out", tmp_path / "scores.jsonl"]
    for _ in range(2):
        assert main(["evaluate", "--checkpoint", str(imported), *map(str, options)]) == 0
    first, second = (json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines())
    assert first == second
    assert [step["guidance"] for step in first["sampler"]["steps"]] == [0.0, 0.75]
    assert first["sampler"]["steps"][0]["remask"] == 0.75  # what was not changed is there too
    assert first["frechet_distance"] > 0
    assert "frechet_distance" in capsys.readouterr().out
    evaluate = ["evaluate", "--checkpoint", str(imported), "--judge", str(judge)]
    for wrong, words in ((["--n", "1"], "n must be 2 or more"), (["--out", str(tmp_path)], "is a folder")):
        assert main([*evaluate, *wrong]) == 2
        assert words in capsys.readouterr().err
    assert main([*evaluate, "--n", "4", "--steps", "1"]) == 0
    assert "needs real images, or their statistics" in capsys.readouterr().out


def scores(imported, *options):
    assert main(["evaluate", "--checkpoint", str(imported), "--n", "16", "--steps", "2", *map(str, options)]) == 0


def test_statistics_of_real_images_can_be_kept_and_stand_for_them(imported, judge, make_shards, tmp_path):
    shards, kept, out = make_shards([11, 9]), tmp_path / "kept.npz", tmp_path / "scores.jsonl"
    common = ["--judge", judge, "--out", out]
    scores(imported, *common, "--real", shards, "--field", "jpg", "--save_statistics", kept)
    scores(imported, *common, "--statistics", kept)
    scores(imported, *common, "--statistics", kept, "--dtype", "bfloat16")
    real, statistics, low = (json.loads(line) for line in out.read_text().splitlines())
    assert statistics["frechet_distance"] == pytest.approx(real["frechet_distance"], rel=1e-4)
    assert real.keys() - statistics.keys() == {"precision", "recall"}  # which need the images
    assert (statistics["dtype"], low["dtype"]) == ("float32", "bfloat16")
    images = ShardData(shards, {"image": Picture(field="jpg", size=32)}, batch_size=20)
    images.setup("fit")
    (batch,) = images.train_dataloader()
    features = read(judge).parts["judge"](batch["image"].float() / 255).features
    assert np.allclose(np.load(kept)["mu"], features.detach().mean(0), atol=1e-4)
    assert np.allclose(np.load(kept)["sigma"], np.cov(features.detach().T.numpy()), atol=1e-4)


def test_cheap_steps_are_taken_on_request(imported, judge, tmp_path):
    """With as many steps, a full one for each two; both verbs mean the same."""
    recap = ["--schedule", "recap", "--steps", 6, "--guidance", 1.0]
    assert generate(imported, tmp_path / "a.png", "--n", 2, *recap, "--local", 1) == 0
    assert generate(imported, tmp_path / "b.png", "--n", 2, *recap) == 0
    assert (pixels(tmp_path / "a.png") != pixels(tmp_path / "b.png")).any()
    sampler = sampler_of(read(imported), "recap", 1, steps=6, guidance=1.0)
    *_, last = sampler.steps(read(imported).parts["generator"], torch.tensor([0]), [0])
    assert (last.evaluations, last.few) == (2 * 3, 2 * 3)
    out = tmp_path / "scores.jsonl"
    np.savez(tmp_path / "real.npz", mu=np.zeros(8), sigma=np.eye(8))
    scores(imported, "--judge", judge, "--statistics", tmp_path / "real.npz", "--out", out, *recap[:2], "--local", 1)
    found = json.loads(out.read_text())["sampler"]
    assert (found["class"], found["local"], len(found["steps"])) == ("ReCAP", 1, 2)


def test_an_export_is_one_file_that_draws_the_same(imported, tmp_path):
    assert main(["export", str(imported), str(tmp_path / "all.safetensors")]) == 0
    generate(imported, tmp_path / "a.png", "--n", 1)
    generate(tmp_path / "all.safetensors", tmp_path / "b.png", "--n", 1)
    assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")).all()
    card = (imported / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "mmmask"
    assert "ENATSchedule" in card


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--class", "1000"], "there is no class '1000': the model knows 0 to 999"),
        (["--class", "cat"], "there is no class 'cat'"),
        (["--vectors", "a.npy"], "follows classes, not texts"),
        (["--text", "a dog"], "follows classes, not texts"),
        (["--image", "a.png"], "image and mask go together"),
        (["--image", "none.png", "--mask", "none.png"], "none.png does not exist"),
        (["--n", "0"], "n and batch_size must be 1 or more"),
        (["--device", "gpu"], "there is no device 'gpu'"),
        (["--steps", "0"], "steps is 0"),
        (["--out", "a.xyz"], "pictures are written as"),
        (["--gif", "a.mp4"], "films are written as .gif"),
        (["--class"], "--class needs a value"),
        (["--class", ","], "--class needs a value"),
        (["--seed", "-1"], "seed is -1; give a number from 0"),
        (["--seed", "99999999999999999999"], "give a number from 0 to below 2^62"),
        (
            ["--schedule", "autonat", "--steps", "4"],
            "no such setting (steps), it is what it is, with 8",
        ),
        (["--steps", "65"], "65 steps for 64 tokens"),
    ],
)
def test_what_cannot_be_drawn_is_told(imported, options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--out", "a.png", *options] if "--out" not in options else options
    assert main(["generate", "--checkpoint", str(imported), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_tokenizer_of_other_tokens_is_refused(imported, tmp_path, capsys):
    torch.save(vectors("autonat_weights"), tmp_path / "nat.pth")
    options = ["--heads", "4", "--tokenizer", str(imported.parent / "tokenizer")]
    assert main(["import", str(tmp_path / "nat.pth"), str(tmp_path / "out"), *options]) == 2
    assert "makes 64 tokens out of 24, the backbone is made for 256 out of 24" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_imported_tokenizer_makes_token_shards(imported, make_shards, tmp_path, capsys):
    shards = make_shards([6, 5])
    tokenizer = str(imported.parent / "tokenizer")
    assert main(["tokenize", tokenizer, shards, str(tmp_path / "tokens"), "--field", "jpg"]) == 0
    readers = {"image": Array("image.npy", 24), "label": Label()}
    data = ShardData(str(tmp_path / "tokens/train-*.tar"), readers, batch_size=11)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    pictures = ShardData(shards, {"image": Picture(field="jpg", size=32)}, batch_size=11)
    pictures.setup("fit")
    (originals,) = pictures.train_dataloader()
    expected = read(imported).parts["tokenizer"].encode(originals["image"].float() / 255)
    found = dict(zip(batch["key"], batch["image"], strict=True))
    assert all(torch.equal(found[key], ids) for key, ids in zip(originals["key"], expected, strict=True))


def test_a_model_can_be_given_back_to_the_published_code(imported, tmp_path):
    assert main(["export", str(imported), str(tmp_path / "back.pth"), "--published"]) == 0
    back, published = torch.load(tmp_path / "back.pth", weights_only=True), vectors("enat_weights")
    assert back.keys() == published.keys()
    assert torch.equal(back["blocks.3.attn.kv.B.weight"], published["blocks.3.attn.kv.B.weight"])
