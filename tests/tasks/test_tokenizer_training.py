"""Tokenizer training as a task: it learns, counts and shows what it did."""

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from quiet import QUIET
from torch.utils.data import DataLoader
from torchvision import models

from mmmask.errors import UserError
from mmmask.tokenizers import Adversary, ClassMap, CosineQuantizer, Perceptual, VectorTokenizer, ViTTokenizer
from tasks.tokenizer_training import CodeUse, TokenizerTraining


def samples(count, seed=0):
    """Images of two flat halves, as uint8, with keys."""
    values = torch.randint(0, 256, (count, 1, 1, 2), generator=torch.Generator().manual_seed(seed))
    images = values.repeat_interleave(8, 2).repeat_interleave(4, 3).to(torch.uint8)
    return [{"key": f"{i:06d}", "image": image} for i, image in enumerate(images)]


def loader(count=32, batch_size=16, seed=0):
    return DataLoader(samples(count, seed), batch_size)


def task(channels=1, **settings):
    torch.manual_seed(0)
    tokenizer = ViTTokenizer(CosineQuantizer(16, 4), 8, channels, 4, dim=16, heads=2, width=8)
    return TokenizerTraining(tokenizer, **({"warmup_steps": 2} | settings))


def test_training_lowers_the_validation_error_and_leaves_pictures(tmp_path):
    trainer = Trainer(max_epochs=60, check_val_every_n_epoch=30, **QUIET | {"logger": CSVLogger(tmp_path)})
    model = task()
    before = trainer.validate(model, loader(seed=1), verbose=False)[0]
    trainer.fit(model, loader(), loader(seed=1))
    after = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert after["val/mse"] < before["val/mse"] / 5
    assert after["val/psnr"] == pytest.approx(-10 * torch.tensor(after["val/mse"]).log10().item(), abs=1e-3)
    assert {"train/loss", "train/mse"} <= set(after)
    pictures = sorted(path.name for path in (tmp_path / "lightning_logs/version_0/samples").iterdir())
    assert pictures == [f"reconstruction-step-{step:06d}.png" for step in (0, 60, 120)]


def test_the_picture_holds_the_first_sixteen_originals_over_their_reconstructions(tmp_path):
    trainer = Trainer(**QUIET | {"logger": CSVLogger(tmp_path)})
    model, data = task(), loader(count=24, batch_size=10)
    trainer.validate(model, data, verbose=False)
    (path,) = tmp_path.rglob("*.png")
    picture = torch.tensor(list(Image.open(path).convert("L").getdata())).view(-1, 8 * 126 + 14)
    assert picture.shape[0] == 4 * 126 + 14
    centres = picture[14 + 56 :: 126, 14 + 28 :: 126]  # of the left halves: 4 rows of 8
    originals = torch.stack([s["image"] for s in samples(16)])
    reconstructed = model.tokenizer.decode(model.tokenizer.encode(originals / 255)) * 255
    left_of_originals = originals[:, 0, 4, 2].view(2, 8).long()
    assert centres[0::2].equal(left_of_originals)
    assert (centres[1::2] - reconstructed[:, 0, 4, 2].view(2, 8)).abs().max() <= 1


def test_code_use_counts_the_whole_validation_set_not_the_mean_of_batches():
    use = CodeUse(8)
    for ids in ([[0, 1]], [[1, 2]], [[7, 7]]):
        use.update(torch.tensor(ids))
    assert use.compute() == 0.5
    use.reset()
    use.update(torch.tensor([[3]]))
    assert use.compute() == 1 / 8


def test_uint8_and_float_batches_are_the_same_images():
    model = task()
    batch = next(iter(loader()))
    as_float = batch | {"image": batch["image"].float() / 255}
    assert model.predict_step(batch)["image"].equal(model.predict_step(as_float)["image"])
    assert model.predict_step(batch)["key"][:2] == ["000000", "000001"]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_test_error_is_that_of_all_images(tmp_path, channels):
    model = task(channels)
    data = [sample | {"image": sample["image"].expand(channels, 8, 8)} for sample in samples(24)]
    trainer = Trainer(default_root_dir=tmp_path, **QUIET)
    result = trainer.test(model, DataLoader(data, 10), verbose=False)[0]
    images = torch.stack([s["image"] for s in data]) / 255
    ids = model.tokenizer.encode(images)
    assert result["test/mse"] == pytest.approx((model.tokenizer.decode(ids) - images).square().mean().item())
    assert result["test/code_use"] == ids.unique().numel() / 16


def test_the_learning_rate_warms_up_and_ends_at_zero(tmp_path):
    rates = []

    class Watched(TokenizerTraining):
        def on_train_batch_start(self, batch, batch_idx):
            rates.append(self.optimizers().param_groups[0]["lr"])

    model = Watched(task().tokenizer, lr=1e-3, warmup_steps=4)
    Trainer(max_steps=20, default_root_dir=tmp_path, **QUIET).fit(model, loader())
    assert len(rates) == 20
    assert rates[:5] == sorted(rates[:5])
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert 0 < rates[-1] < 1e-5 < rates[0] < max(rates) <= 1e-3


def test_an_endless_run_and_a_missing_modality_are_named(tmp_path):
    trainer = Trainer(max_epochs=-1, default_root_dir=tmp_path, **QUIET)
    with pytest.raises(UserError, match="set trainer.max_steps"):
        trainer.fit(task(), loader())
    with pytest.raises(UserError, match="no 'rgb', only image, key"):
        task(modality="rgb").predict_step(next(iter(loader())))


def test_stand_ins_for_absent_images_are_not_learned():
    batch = next(iter(loader()))
    there = torch.ones(len(batch["key"]), dtype=torch.bool)
    assert task().predict_step({**batch, "present": {"image": there}})
    there[1] = False
    with pytest.raises(UserError, match="have no 'image', only a stand-in"):
        task().predict_step({**batch, "present": {"image": there}})


def test_an_adversary_and_perception_train_along_in_the_same_steps(tmp_path):
    weights = tmp_path / "squeezenet.pth"
    torch.save(models.squeezenet1_1(weights=None).state_dict(), weights)
    torch.manual_seed(0)
    tokenizer = ViTTokenizer(CosineQuantizer(16, 4), 32, 1, 4, dim=16, heads=2, width=8)
    adversary = Adversary(1, width=8, halvings=2)
    perceptual = Perceptual(weights, "squeezenet1_1", layers=(1, 4))
    model = TokenizerTraining(tokenizer, perceptual, adversary, warmup_steps=0)
    before = {name: value.clone() for name, value in model.named_parameters()}
    images = [{"key": str(i), "image": torch.rand(1, 32, 32)} for i in range(8)]
    trainer = Trainer(max_steps=2, **QUIET)
    trainer.fit(model, DataLoader(images, 4))
    changed = {name.split(".")[0] for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"tokenizer", "adversary"}
    told = {name: float(value) for name, value in trainer.callback_metrics.items()}
    parts = ("mse", "perceptual", "adversarial", "discriminator", "quantizer")
    assert told["train/loss"] == pytest.approx(sum(told[f"train/{part}"] for part in parts), rel=1e-5)
    assert not [name for name in model.state_dict() if "perceptual" in name]


@pytest.mark.parametrize("wrong", [{"channels": 3}, {"channels": 1, "halvings": 4}])
def test_an_adversary_for_other_images_is_refused(wrong):
    tokenizer = ViTTokenizer(CosineQuantizer(16, 4), 32, 1, 4, dim=16, heads=2, width=8)
    with pytest.raises(UserError, match="these have 1 and 32"):
        TokenizerTraining(tokenizer, adversary=Adversary(**wrong))


def test_class_maps_are_trained_by_cross_entropy_and_shown_in_colours(tmp_path):
    torch.manual_seed(0)
    tokenizer = ViTTokenizer(CosineQuantizer(16, 4), 8, 3, 4, dim=16, heads=2, width=8, content=ClassMap())
    data = [{"key": s["key"], "image": s["image"] // 86} for s in samples(32)]  # 3 classes
    trainer = Trainer(max_epochs=20, check_val_every_n_epoch=20, **QUIET | {"logger": CSVLogger(tmp_path)})
    trainer.fit(TokenizerTraining(tokenizer, warmup_steps=2), DataLoader(data, 16), DataLoader(data, 16))
    told = trainer.callback_metrics
    assert {"train/cross_entropy", "val/accuracy", "val/miou"} <= set(told)
    assert told["val/accuracy"] > 0.9
    (picture,) = [path for path in tmp_path.rglob("*.png") if "000040" in path.name]
    assert len(set(Image.open(picture).getdata())) >= 3


def test_vectors_are_trained_by_the_same_task_without_pictures(tmp_path):
    torch.manual_seed(0)
    model = TokenizerTraining(VectorTokenizer(CosineQuantizer(16, 4), 6, tokens=2, width=16), modality="clip")
    data = [{"key": str(n), "clip": vector} for n, vector in enumerate(torch.randn(32, 6))]
    trainer = Trainer(max_epochs=2, **QUIET | {"logger": CSVLogger(tmp_path)})
    trainer.fit(model, DataLoader(data, 16), DataLoader(data, 16))
    assert {"train/cosine", "val/cosine"} <= set(trainer.callback_metrics)
    assert not list(tmp_path.rglob("*.png"))
    assert model.tokens({"clip": torch.randn(3, 6)})["clip"].shape == (3, 2)


def test_judges_of_pictures_are_refused_for_other_data():
    tokenizer = ViTTokenizer(CosineQuantizer(16, 4), 32, 1, 4, dim=16, heads=2, width=8, content=ClassMap())
    with pytest.raises(UserError, match="judge pictures only"):
        TokenizerTraining(tokenizer, adversary=Adversary(1, halvings=2))
