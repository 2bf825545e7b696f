"""The search of a strategy: judged with common seeds, resumed where it stopped, its best one read by the sampler."""

import json

import numpy as np
import pytest
import torch
import yaml

from mmmask.cli import main
from mmmask.errors import UserError
from mmmask.metrics import Classifier
from mmmask.pretrained.model_files import Model, build, read, write
from mmmask.synthesis.search import CMAES, FiniteDifferences, allowed, beginning, parted, schedule
from tasks import searching
from tasks.searching import FrechetDistance, Judging
from tasks.short_trainings import ShortTrainings

TOKENIZER = {
    "class_path": "mmmask.tokenizers.ViTTokenizer",
    "init_args": {
        "quantizer": {"class_path": "mmmask.tokenizers.CosineQuantizer", "init_args": {"vocab_size": 24, "dim": 4}},
        "image_size": 16,
        "patch": 4,
        "dim": 16,
        "width": 4,
    },
}
BACKBONE = {
    "class_path": "mmmask.transformer.AutoNAT",
    "init_args": {"vocab_size": 24, "tokens": 16, "classes": 3, "dim": 16, "depth": 3, "heads": 2},
}
JUDGE = {"class_path": "mmmask.metrics.Classifier", "init_args": {"classes": 3, "channels": 3, "dim": 8}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that draws something, a judge, and statistics of what it could be compared with."""
    folder = tmp_path_factory.mktemp("search")
    torch.manual_seed(0)
    specs = {
        "generator": {"class_path": "mmmask.synthesis.ImageGenerator", "init_args": {"backbone": BACKBONE}},
        "tokenizer": TOKENIZER,
    }
    parts = {name: build(spec) for name, spec in specs.items()}
    for parameter in parts["generator"].parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    parts["tokenizer"](torch.rand(8, 3, 16, 16))
    write(folder / "model", Model(parts, specs), "")
    torch.nn.init.normal_(parts["generator"].head.bias)
    write(folder / "other", Model(parts, specs), "")
    write(folder / "judge", Model({"judge": Classifier(3, 3, 8)}, {"judge": JUDGE}), "")
    np.savez(folder / "real.npz", mu=np.full(8, 0.1), sigma=np.eye(8) * 0.01)
    return folder


def search(folder, out, *options, model="model", metric="FrechetDistance"):
    arguments = ["search", "--model", folder / model, "--metric", metric, "--out", out]
    arguments += ["--metric.statistics", folder / "real.npz", "--metric.judge", folder / "judge"]
    arguments += ["--steps", "3", "--images", "12", "--evaluations", "22", *options]
    return main([str(argument) for argument in arguments])


def trail(out):
    return [json.loads(line) for line in (out / "trail.jsonl").read_text().splitlines()]


def test_the_best_strategy_is_kept_and_drawn_with(folder, tmp_path, capsys):
    assert search(folder, tmp_path / "out") == 0
    lines = trail(tmp_path / "out")[1:]
    assert len(lines) == 22  # two rounds of 1 + 4 * 3 - 2
    best = min(lines, key=lambda line: line["value"])
    spec = yaml.safe_load((tmp_path / "out/best.yaml").read_text())
    assert spec == {"class_path": "mmmask.synthesis.AutoNATSchedule", "init_args": parted(np.array(best["strategy"]))}
    assert (tmp_path / "out/trail.png").stat().st_size > 5000
    draw = ["generate", "--checkpoint", str(folder / "model"), "--n", "1", "--out", str(tmp_path / "a.png")]
    assert main([*draw, "--schedule", str(tmp_path / "out/best.yaml")]) == 0
    judging = Judging(folder / "model", FrechetDistance(folder / "real.npz", folder / "judge"), 12, 0, 5, "cpu")
    assert judging(np.array(best["strategy"])) == pytest.approx(best["value"], rel=1e-5)  # the seeds are common
    (tmp_path / "no.yaml").write_text("a: 1\n")
    assert main([*draw, "--schedule", str(tmp_path / "no.yaml")]) == 2
    assert main([*draw, "--schedule", "cosinus"]) == 2
    errors = capsys.readouterr().err
    assert "no.yaml describes no schedule" in errors
    assert "there is no schedule 'cosinus'" in errors


@pytest.mark.parametrize("optimiser", ["FiniteDifferences", "CMAES"])
def test_a_search_that_was_stopped_goes_on_as_if_it_was_not(folder, tmp_path, optimiser, monkeypatch):
    if optimiser == "CMAES":
        pytest.importorskip("cma")
    options = ["--optimiser", optimiser]
    assert search(folder, tmp_path / "quiet", *options) == 0
    assert search(folder, tmp_path / "stopped", *options) == 0
    whole = (tmp_path / "stopped/trail.jsonl").read_text()
    (tmp_path / "stopped/trail.jsonl").write_text(whole[: len(whole) * 2 // 3])  # a kill, in the middle of a line
    judged = []
    judge = Judging.__call__
    monkeypatch.setattr(Judging, "__call__", lambda self, strategy: judged.append(1) or judge(self, strategy))
    assert search(folder, tmp_path / "stopped", *options) == 0
    assert 0 < len(judged) < 22
    assert trail(tmp_path / "stopped") == trail(tmp_path / "quiet")
    assert (tmp_path / "stopped/best.yaml").read_text() == (tmp_path / "quiet/best.yaml").read_text()


def test_two_processes_find_what_one_finds(folder, tmp_path):
    assert search(folder, tmp_path / "one") == 0
    assert search(folder, tmp_path / "two", "--workers", "2") == 0
    for a, b in zip(trail(tmp_path / "one")[1:], trail(tmp_path / "two")[1:], strict=True):
        assert a["value"] == pytest.approx(b["value"], rel=1e-4)


@pytest.mark.parametrize("optimiser", [FiniteDifferences(lr=0.02, other_lr=0.2), CMAES()])
def test_each_optimiser_finds_the_bottom_of_a_valley(optimiser):
    if isinstance(optimiser, CMAES):
        pytest.importorskip("cma")
    bottom = allowed(beginning(3) + np.linspace(-0.3, 0.3, 10))
    optimiser.start(beginning(3), seed=0)
    worst = best = ((beginning(3) - bottom) ** 2).sum()
    for _ in range(40):
        values = [((strategy - bottom) ** 2).sum() for strategy in optimiser.ask()]
        best = min(best, *values)
        optimiser.tell(values)
    assert best < 0.1 * worst


def test_laws_of_masks_are_judged_by_their_own_trainings(folder, tmp_path, monkeypatch):
    trained = []

    def train(self, law, run):
        trained.append(law)
        model = read(folder / ("model" if law == (4, 2) else "other"))
        write(run, model, "")

    monkeypatch.setattr(ShortTrainings, "_train", train)
    trainings = ShortTrainings(tmp_path / "c.yaml", [(4, 2), (8, 3)])
    worth = {"beta-4-2": 3.0, "beta-8-3": 2.0}
    for _ in range(2):  # the second time all is known
        assert trainings.best(tmp_path / "laws", lambda run: worth[run.name]) == ((8, 3), tmp_path / "laws/beta-8-3")
    assert trained == [(4, 2), (8, 3)]
    with pytest.raises(UserError, match="one law at least"):
        ShortTrainings(tmp_path / "c.yaml", [])


def test_a_training_that_fails_is_told(tmp_path):
    trainings = ShortTrainings(tmp_path / "none.yaml", [(4, 2)])
    with pytest.raises(UserError, match=r"Beta\(4.0, 2.0\) ended with code 2; .*none.yaml does not exist"):
        trainings.best(tmp_path, lambda run: 0.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "1"], "1 step leaves nothing to search for"),
        (["--images", "0"], "must be 1 or more"),
        (["--metric.statistics", "none.npz"], "none.npz does not exist"),
        (["--model", "none"], "none is neither a run folder nor an exported model"),
    ],
)
def test_what_cannot_be_searched_is_told(folder, tmp_path, options, words, capsys):
    assert search(folder, tmp_path / "out", *options) == 2
    assert words in capsys.readouterr().err


def test_a_folder_of_another_search_is_refused(folder, tmp_path, capsys):
    assert search(folder, tmp_path, "--evaluations", "1") == 0
    assert search(folder, tmp_path, model="other") == 2
    assert search(folder, tmp_path, "--steps", "4") == 2
    errors = capsys.readouterr().err
    assert "holds a search with another model" in errors
    assert "holds a search with another number of steps (3, now 4)" in errors


def test_a_metric_that_gives_no_number_is_told(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(searching.FrechetDistance, "__call__", lambda *_: float("nan"))
    assert search(folder, tmp_path) == 2
    assert "the metric gave nan" in capsys.readouterr().err
    assert len(schedule(beginning(4))) == 4
