"""Classifier training as a task: it learns, leaves out what has no label, and its run folder is a judge."""

import json

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from quiet import QUIET
from small_generators import write_small_model
from torch.utils.data import DataLoader

from mmmask.cli import main
from mmmask.errors import UserError
from mmmask.metrics import Classifier
from mmmask.pretrained.model_files import read
from tasks.classifier_training import ClassifierTraining
from tasks.evaluating import extractor_of
from tasks.finished import model_of

READERS = {
    "image": {"class_path": "Image", "init_args": {"field": "jpg", "size": 16, "channels": 3}},
    "label": {"class_path": "Label"},
}
SMALL = {"class_path": "mmmask.metrics.Classifier", "init_args": {"classes": 3, "channels": 3, "dim": 8}}


def samples(count=64, seed=0):
    """Noise in which a bright stripe lies across (class 0) or upright (class 1)."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for n in range(count):
        image, place = torch.rand(1, 8, 8, generator=draw) / 2, int(torch.randint(8, (), generator=draw))
        (image[:, place] if n % 2 == 0 else image[:, :, place]).fill_(1.0)
        found.append({"key": str(n), "image": (image * 255).to(torch.uint8), "label": n % 2})
    return found


def task(**settings):
    seed_everything(0, verbose=False)
    return ClassifierTraining(**{"classifier": Classifier(2, dim=16), "lr": 1e-2, "warmup_steps": 2, **settings})


def batch(**changes):
    return {**next(iter(DataLoader(samples(8), 8))), **changes}


def loss_of(model, given):
    """Of a training step, in eval mode so that neither dropout nor the neighbours in the batch matter."""
    return float(model.eval().training_step(given, 0))


def gradient_of(model, given):
    model.zero_grad()
    model.eval().training_step(given, 0).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_it_learns_to_tell_what_can_be_told(tmp_path):
    model = task()
    trainer = Trainer(max_epochs=12, default_root_dir=tmp_path, **QUIET)
    others = DataLoader(samples(40, seed=1), 16)
    before = trainer.validate(model, others, verbose=False)[0]
    trainer.fit(model, DataLoader(samples(), 16, shuffle=True), others)
    after = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert before["val/accuracy"] < 0.8
    assert after["val/accuracy"] == 1
    assert after["val/loss"] < before["val/loss"] / 2
    assert "train/loss" in after


def test_samples_without_a_label_change_neither_loss_nor_gradient_nor_scores(tmp_path):
    model, labels = task(), torch.tensor([0, -1, 1, -1, -1, 0, 1, -1])
    mixed, known = batch(label=labels), labels >= 0
    alone = {"key": "0", "image": mixed["image"][known], "label": labels[known]}
    assert loss_of(model, mixed) == pytest.approx(loss_of(model, alone), rel=1e-5)
    assert torch.allclose(gradient_of(model, mixed), gradient_of(model, alone), atol=1e-6)
    assert loss_of(model, batch(label=torch.full((8,), -1))) == 0
    data = [{**sample, "label": int(label)} for sample, label in zip(samples(8), labels, strict=True)]
    trainer = Trainer(default_root_dir=tmp_path, **QUIET)
    scores = [
        trainer.validate(model, DataLoader(some, 3), verbose=False)[0]  # 3: batches have unequal numbers of labels
        for some in (data, [sample for sample in data if sample["label"] >= 0])
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)


def test_scores_are_those_of_the_whole_set_without_smoothing(tmp_path):
    model, data = task(), samples(20)
    trainer = Trainer(default_root_dir=tmp_path, **QUIET)
    validated = trainer.validate(model, DataLoader(data, 7), verbose=False)[0]
    tested = trainer.test(model, DataLoader(data, 7), verbose=False)[0]
    labels = torch.tensor([sample["label"] for sample in data])
    logits = model.eval().classifier(torch.stack([sample["image"] for sample in data]) / 255).logits
    right = (logits.argmax(1) == labels).float().mean().item()
    assert validated["val/loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert validated["val/accuracy"] == tested["test/accuracy"] == pytest.approx(right)


def test_the_target_is_smoothed_as_asked():
    smoothed, plain = (task(label_smoothing=share) for share in (0.2, 0.0))
    log_p = smoothed.eval().classifier(batch()["image"] / 255).logits.log_softmax(1)
    own, mean = log_p.gather(1, batch()["label"][:, None]).mean().item(), log_p.mean().item()
    assert loss_of(plain, batch()) == pytest.approx(-own, rel=1e-5)
    assert loss_of(smoothed, batch()) == pytest.approx(-0.8 * own - 0.2 * mean, rel=1e-5)


def test_bytes_and_numbers_are_the_same_images():
    assert loss_of(task(), batch()) == loss_of(task(), batch(image=batch()["image"].float() / 255))


@pytest.mark.parametrize(
    ("settings", "changes", "words"),
    [
        ({"image": "picture"}, {}, "the batch has no 'picture', only image, key, label"),
        ({"label": "labels"}, {}, "the batch has no 'labels', only image, key, label. Did you mean 'label'"),
        ({}, {"label": torch.arange(8)}, "class 2 in the data, but the classifier knows 0 to 1; set its classes"),
        ({}, {"label": torch.full((8,), -2)}, "class -2 in the data"),
        ({"classifier": Classifier(2, 3, 8)}, {}, "'image' has 1 channels, the classifier is for 3"),
        ({"classifier": Classifier(1, dim=8)}, {}, "the classifier knows 1 class"),
        ({"label_smoothing": 1.0}, {}, "label_smoothing is a share"),
        ({}, {"present": {"image": torch.arange(8) > 0}}, "have no 'image', only a stand-in"),
    ],
)
def test_what_does_not_fit_is_told(settings, changes, words):
    def step():
        model = task(**settings)
        model.training_step(model.on_before_batch_transfer(batch(**changes), 0), 0)

    with pytest.raises(UserError, match=words):
        step()


@pytest.fixture
def run(make_shards, tmp_path):
    """The run folder that the command line leaves, with configuration and checkpoint."""
    config = {
        "trainer": {"accelerator": "cpu", "max_steps": 3, "default_root_dir": str(tmp_path / "runs")},
        "model": {"class_path": "ClassifierTraining", "init_args": {"classifier": SMALL}},
        "data": {
            "class_path": "ShardData",
            "init_args": {"train": make_shards([8]), "batch_size": 4, "modalities": READERS},
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["fit", "--config", str(tmp_path / "config.json")]) == 0
    return tmp_path / "runs" / "run-1"


def test_a_run_is_a_judge_and_so_is_its_export(run, tmp_path):
    trained = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert main(["export", str(run), str(tmp_path / "folder")]) == 0
    assert main(["export", str(run), str(tmp_path / "judge.safetensors")]) == 0
    images = torch.rand(4, 3, 16, 16)
    for place in (run, run.parent, tmp_path / "folder", tmp_path / "judge.safetensors"):
        judge = extractor_of(place, None)
        assert not judge.training
        assert torch.equal(judge.head.weight, trained["classifier.head.weight"])
        assert torch.equal(judge.body[0][1].running_mean, trained["classifier.body.0.1.running_mean"])
        assert torch.equal(judge(images).features, model_of(run).parts["classifier"](images).features)
    assert read(tmp_path / "folder").parts.keys() == {"classifier"}


def test_it_makes_no_tokens(run, make_shards, tmp_path, capsys):
    assert main(["tokenize", str(run), make_shards([2], "sources"), str(tmp_path / "out")]) == 2
    assert "is a run of ClassifierTraining: give the run folder of a tokenizer." in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_classifier_is_no_judge(tmp_path):
    write_small_model(tmp_path / "other")
    with pytest.raises(UserError, match="holds no classifier"):
        extractor_of(tmp_path / "other", None)
    with pytest.raises(UserError, match="neither a run folder nor an exported model"):
        extractor_of(tmp_path / "nothing", None)
