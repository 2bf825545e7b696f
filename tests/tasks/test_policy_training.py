"""Training of a policy: it learns what pays, whatever the ranks and stops, and its run decodes by it."""

import csv
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Trainer, seed_everything
from mean_metric import MeanMetric
from processes import together
from quiet import QUIET
from small_generators import TOKENIZER, write_small_model
from torch.utils.data import DataLoader

from mmmask.cli import main
from mmmask.errors import UserError
from mmmask.pretrained.model_files import read
from mmmask.synthesis import AdaptiveSampler, CosineSchedule, Sampler
from tasks import ppo
from tasks.feature_maps import FeatureMaps
from tasks.finished import model_of
from tasks.policy_training import PolicyTraining
from tasks.rewards import Adversarial, Reward
from tasks.samplers import sampler_of

SIZES = {"hidden": 16, "narrow": 4, "wide": (16, 8)}


class Contrast(Reward):
    """Pictures that vary much."""

    def forward(self, images, given):
        return images.flatten(1).std(1)


class Flatness(MeanMetric):
    """The opposite; less is better."""

    def of(self, images, given):
        return -images.flatten(1).std(1)


class Corners(FeatureMaps):
    """Looks at few pixels."""

    channels = (3,)

    def forward(self, images):
        return [images[:, :, ::4, ::4].flatten(2)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_small_model(tmp_path_factory.mktemp("policy") / "model")


def task(model, reward=None, **settings):
    seed_everything(0, verbose=False)
    small = {"images": 48, "draw_at_once": 16, "lr": 3e-3, "reward_updates": 2, **SIZES}
    return PolicyTraining(model, reward or Contrast(), CosineSchedule(3, guidance=1.0), **{**small, **settings})


def loader(rank=0, world=1, **changes):
    """Batches of eight, over all ranks."""
    draw = torch.Generator().manual_seed(0)
    pictures = (torch.rand(24, 3, 16, 16, generator=draw) * 255).to(torch.uint8)
    samples = [{"key": str(n), "image": pictures[n], "label": n % 3, **changes} for n in range(24)]
    return DataLoader(samples[rank::world], 8 // world)


def fit(model, steps, folder=Path(), rank=0, world=1, resume=None, **settings):
    runner = Trainer(max_steps=steps, devices=world, strategy="ddp" if world > 1 else "auto", **QUIET)
    trained = task(model, **settings)
    runner.fit(trained, loader(rank, world), ckpt_path=resume, weights_only=resume and True)
    if folder.name:
        runner.save_checkpoint(folder / f"{world}-{steps}.ckpt")
    return trained


def worth(trained):
    """Of what the policy draws with seeds that it was not trained with."""
    given = torch.arange(60) % 3
    with torch.no_grad():
        return float(trained.reward(trained._draw(given, range(1000, 1060), 0.0), given).mean())


def test_the_policy_learns_what_pays(model):
    before, after = worth(task(model)), worth(fit(model, 25))
    assert after > before * 1.05


@pytest.mark.parametrize("smoothing", [0.0, 0.6])
def test_untrained_it_decodes_as_the_schedule_it_begins_with(model, smoothing):
    fresh, own = task(model, smoothing=smoothing), read(model)
    given, seeds = torch.arange(20) % 3, list(range(20))
    by_policy = fresh.sampler.sample(own.parts["generator"], given, seeds)
    by_schedule = Sampler(CosineSchedule(3, guidance=1.0)).sample(own.parts["generator"], given, seeds)
    assert (by_policy == by_schedule).float().mean() > 0.97  # a policy comes close to shares and noise of 0


def test_later_it_tries_less(model, monkeypatch):
    tried, accumulate = [], ppo.accumulate
    monkeypatch.setattr(ppo, "accumulate", lambda *given: tried.append(given[3]) or accumulate(*given))
    fit(model, 3, epochs=1, spread=0.5, later_spread=0.1, narrow_at=2)
    assert tried == [0.5, 0.5, 0.1]


def test_equally_many_images_are_judged_together(model):
    sizes = [len(seeds) for _, seeds in task(model, draw_at_once=16)._batches(torch.arange(8) % 3, torch.arange(40))]
    assert sorted(sizes) == [13, 13, 14]


def test_a_small_batch_teaches_the_adversary_as_often(model):
    class Counted(Adversarial):
        seen = 0

        def loss(self, real, drawn, given):
            assert len(real) == len(drawn) == len(given) > 0
            self.seen += 1
            return super().loss(real, drawn, given)

    reward = Counted(Corners(), 3, dim=8, depth=1)
    fit(model, 2, reward=reward, reward_updates=9)  # of batches of eight
    assert reward.seen == 18


def rank_fits(rank, model, folder, steps, world, **settings):
    fit(model, steps, folder, rank, world, **settings)


def test_two_ranks_train_as_one_does(model, tmp_path):
    """One update by the same gradient; Adam makes whole steps of tiny ones, so weights tell less."""
    together(1, rank_fits, model, tmp_path, 1, 1, epochs=1)
    together(2, rank_fits, model, tmp_path, 1, 2, epochs=1, draw_at_once=8)
    one, two = (
        torch.load(tmp_path / f"{world}-1.ckpt", weights_only=True)["optimizer_states"][0]["state"] for world in (1, 2)
    )
    assert len(one) == len(list(task(model).parameters()))
    for number in one:
        torch.testing.assert_close(one[number]["exp_avg"], two[number]["exp_avg"], rtol=1e-4, atol=1e-7)
    assert max(moments["exp_avg"].abs().max() for moments in one.values()) > 1e-3


def keeps_what_it_learned(rank, model, folder):
    trained = fit(model, 2, rank=rank, world=2, reward=Adversarial(Corners(), 3, dim=8, depth=1), draw_at_once=8)
    torch.save(trained.state_dict(), folder / str(rank))


def test_the_adversary_is_the_same_on_all_ranks(model, tmp_path):
    together(2, keeps_what_it_learned, model, tmp_path)
    states = [torch.load(tmp_path / str(rank), weights_only=True) for rank in range(2)]
    torch.testing.assert_close(*states, rtol=0, atol=0)


def test_what_is_seen_is_kept_on_the_host_in_half_precision(model):
    trained = task(model)
    trained._trainer = Trainer(**QUIET)
    rollout, worths = trained._roll_out(torch.arange(8) % 3, torch.arange(10), 0.6)
    assert rollout.features.shape == (30, 16, 16)
    assert rollout.features.dtype == torch.float16
    assert rollout.features.device.type == "cpu"
    order = worths.argsort()[[0, -1]]
    per_image = rollout.returns.view(3, 10)  # all ten were drawn at once: step by step
    assert per_image[0, order[0]] < per_image[0, order[1]]
    assert per_image.std(0).max() < 1e-6


@pytest.fixture
def run(model, make_shards, tmp_path):
    """A run folder, made by the command line."""
    fields = {"image": {"class_path": "Image", "init_args": {"field": "jpg", "size": 16, "channels": 3}}}
    content = {
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 2,
            "log_every_n_steps": 1,
            "val_check_interval": 1,
            "callbacks": [{"class_path": "EMA", "init_args": {"decay": 0.5}}],
            "default_root_dir": str(tmp_path / "runs"),
        },
        "model": {
            "class_path": "PolicyTraining",
            "init_args": {
                "model": str(model),
                "reward": {
                    "class_path": "Adversarial",
                    "init_args": {
                        "features": {"class_path": "test_policy_training.Corners"},
                        "classes": 3,
                        "dim": 8,
                        "depth": 1,
                    },
                },
                "reward_updates": 2,
                "metric": {"class_path": "test_policy_training.Flatness"},
                "start": {"class_path": "mmmask.synthesis.CosineSchedule", "init_args": {"steps": 3}},
                "images": 12,
                "draw_at_once": 8,
                "smoothing": 0.25,
                "lr": 0.1,
                **{name: list(size) if isinstance(size, tuple) else size for name, size in SIZES.items()},
            },
        },
        "checkpoints": {"best": "val/metric"},
        "data": {
            "class_path": "ShardData",
            "init_args": {
                "train": make_shards([12]),
                "val": make_shards([12]),
                "batch_size": 4,
                "modalities": {**fields, "label": {"class_path": "Label"}},
            },
        },
    }
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", str(tmp_path / "policy.yaml")]) == 0
    return tmp_path / "runs/run-1"


def test_a_resumed_training_is_the_uninterrupted_one(run, tmp_path):
    config = yaml.safe_load((tmp_path / "policy.yaml").read_text())
    config["trainer"]["max_steps"] = 4
    (tmp_path / "longer.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", str(tmp_path / "longer.yaml")]) == 0
    assert main(["resume", str(run), "--trainer.max_steps", "4"]) == 0
    ours, theirs = (
        torch.load(folder / "checkpoints/last.ckpt", weights_only=True) for folder in (run, tmp_path / "runs/run-2")
    )
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(ours[part], theirs[part], rtol=0, atol=0)
    assert {name.partition(".")[0] for name in ours["state_dict"]} == {"policy", "critic", "reward"}


def test_a_run_decodes_by_its_policy(run, model, tmp_path, capsys):
    with open(run / "metrics.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    logged = [row for row in rows if row["train/reward"]]
    assert len(logged) == 2  # a step is an iteration, however many updates it makes
    metrics = [float(row["val/metric"]) for row in rows if row["val/metric"]]
    assert metrics[0] != metrics[1]
    assert (run / "checkpoints/best.ckpt").resolve().stem == f"step-{metrics.index(min(metrics)) + 1:08d}"
    assert list((run / "samples").glob("generated-step-*.png"))
    trained = model_of(run)
    sampler = sampler_of(trained)
    assert isinstance(sampler, AdaptiveSampler)
    assert sampler.policy.steps == 3
    assert sampler.policy.smoothing == 0.25
    given, seeds = torch.arange(6) % 3, list(range(6))
    ids = sampler.sample(trained.parts["generator"], given, seeds)
    assert main(["export", str(run), str(tmp_path / "exported")]) == 0
    again = read(tmp_path / "exported")
    assert torch.equal(sampler_of(again).sample(again.parts["generator"], given, seeds), ids)
    picture, trace = str(tmp_path / "a.png"), str(tmp_path / "t.png")
    assert main(["generate", "--checkpoint", str(run), "--n", "2", "--out", picture, "--trace", trace]) == 0
    write_small_model(model, seed=1)
    try:
        capsys.readouterr()
        assert main(["generate", "--checkpoint", str(run), "--out", picture]) == 2
        assert "is of a policy for another generator" in capsys.readouterr().err
    finally:
        write_small_model(model)


@pytest.mark.parametrize(
    ("settings", "data", "words"),
    [
        ({}, {"label": -1}, "none of the 8 samples of a batch has a class"),
        ({}, {"label": 3}, "class 3 in the data, but the generator knows 0 to 2"),
        ({"given": "clas"}, {}, "the batch has no 'clas'"),
        ({"reward": Adversarial(Corners(), 4, dim=8)}, {}, "the generator follows 3 classes, the reward 4"),
        ({"smoothing": 1.0}, {}, "smoothing is a share from 0 to below 1"),
        ({"images": 1}, {}, "images must be 2 or more"),
        ({"spread": 0.0}, {}, "above 0"),
    ],
)
def test_what_does_not_fit_is_told(model, settings, data, words):
    with pytest.raises(UserError, match=words):
        Trainer(max_steps=1, **QUIET).fit(task(model, **settings), loader(**data))


def test_a_checkpoint_for_another_generator_is_refused(model, tmp_path):
    fit(model, 1, tmp_path)
    other = write_small_model(tmp_path / "other", seed=1)
    with pytest.raises(UserError, match="of a policy for another generator"):
        fit(other, 2, resume=tmp_path / "1-1.ckpt")


def test_samples_without_a_class_are_left_out(model):
    given, known = task(model)._known({"image": torch.rand(4, 3, 16, 16), "label": torch.tensor([2, -1, 0, -1])})
    assert given.tolist() == [2, 0]
    assert known.tolist() == [True, False, True, False]


def test_real_images_can_be_shown_as_the_tokenizer_gives_them_back(model):
    batch, tokenizer = next(iter(loader())), read(model).parts["tokenizer"]
    pictures = batch["image"] / 255
    plain, decoded = (task(model, as_decoded=choice)._real(batch) for choice in (False, True))
    torch.testing.assert_close(plain, pictures)
    torch.testing.assert_close(decoded, tokenizer.decode(tokenizer.encode(pictures)))
    tokens = {"image": tokenizer.encode(pictures)}
    torch.testing.assert_close(task(model)._real(tokens), decoded)
    assert decoded.shape[-1] == TOKENIZER["init_args"]["image_size"]
