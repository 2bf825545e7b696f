"""The search of a strategy: judged with common seeds, resumed where it stopped, its best one read by the sampler."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mean_metric import MeanMetric
from small_generators import BACKBONE, write_small_model

from mmmask.cli import main
from mmmask.metrics import Classifier
from mmmask.pretrained.model_files import Model, read, write
from mmmask.synthesis.search import CMAES, FiniteDifferences, allowed, beginning, parted
from tasks.samplers import sampler_of
from tasks.searching import Judge, Judging, spec_of
from tasks.short_trainings import ShortTrainings

CONSTANT = {"class_path": "mmmask.metrics.Classifier", "init_args": {"classes": 3, "channels": 3, "dim": 8}}


class Brightness(MeanMetric):
    """Far from the same for different pictures, or for pictures of other classes."""

    def of(self, images, given):
        return images.mean((1, 2, 3)) * (1 + 3 * given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that draws something, a judge, and statistics of what it could be compared with."""
    folder = tmp_path_factory.mktemp("search")
    write_small_model(folder / "model", seed=0, top_k=5)
    write_small_model(folder / "other", seed=1)
    write(folder / "judge", Model({"judge": Classifier(3, 3, 8)}, {"judge": CONSTANT}), "")
    np.savez(folder / "real.npz", mu=np.full(8, 0.1), sigma=np.eye(8) * 0.01)
    return folder


def search(folder, out, *options, model="model"):
    arguments = ["search", "--model", folder / model, "--metric", "test_searching.Brightness", "--out", out]
    arguments += ["--steps", "3", "--images", "12", "--evaluations", "22", *options]
    return main([str(argument) for argument in arguments])


def trail(out):
    return [json.loads(line) for line in (out / "trail.jsonl").read_text().splitlines()]


def test_the_best_strategy_is_kept_and_drawn_with(folder, tmp_path):
    assert search(folder, tmp_path / "out") == 0
    lines = trail(tmp_path / "out")[1:]
    assert len(lines) == 23  # the start, and two rounds of 1 + 4 * 3 - 2
    np.testing.assert_allclose(lines[0]["strategy"], beginning(3))
    assert np.ptp([line["value"] for line in lines]) > 2e-4  # ten times what other tests here allow
    best = min(lines, key=lambda line: line["value"])
    spec = yaml.safe_load((tmp_path / "out/best.yaml").read_text())
    assert spec == {"class_path": "mmmask.synthesis.AutoNATSchedule", "init_args": parted(np.array(best["strategy"]))}
    assert (tmp_path / "out/trail.png").stat().st_size > 5000
    draw = ["generate", "--checkpoint", str(folder / "model"), "--n", "1", "--out", str(tmp_path / "a.png")]
    assert main([*draw, "--schedule", str(tmp_path / "out/best.yaml")]) == 0


def test_a_strategy_is_judged_by_what_generate_draws_with_it(folder, tmp_path):
    """The same seeds each time, and all other settings of the model's own sampler."""
    strategy = beginning(3)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(spec_of(strategy)))
    model = read(folder / "model")
    sampler = sampler_of(model, str(tmp_path / "s.yaml"))
    assert sampler.top_k == 5
    classes = torch.arange(12) % 3
    ids = sampler.sample(model.parts["generator"], classes, range(7, 19))
    images = model.parts["tokenizer"].decode(ids.view(12, 4, 4))
    judge = Judging(Brightness(), images=12, seed=7, batch_size=5, device="cpu").of(folder / "model")
    assert judge(strategy) == pytest.approx(Brightness()(images, classes).item(), rel=1e-5)
    other = Judging(Brightness(), images=12, seed=8, batch_size=5, device="cpu").of(folder / "model")
    assert abs(other(strategy) - judge(strategy)) > 1e-3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1", "describes no schedule"),
        ("class_path: AutoNATSchedule", "describes no schedule"),
        ("{class_path: mmmask.synthesis.CosineSchedule, init_args: [1]}", "describes no schedule"),
        ("{class_path: mmmask.synthesis.CosineSchedule, init_args: {step: 4}}", "unexpected keyword argument 'step'"),
        (
            "{class_path: mmmask.synthesis.Schedule, init_args: {steps: [{class_path: subprocess.Popen}]}}",
            "only classes of mmmask are built",
        ),
        (
            "{class_path: mmmask.synthesis.Noise, init_args: {seeds: [1]}}",
            "s.yaml: mmmask.synthesis.Noise is no",
        ),
        ("{class_path: mmmask.synthesis.CosineSchedule, init_args: {steps: four}}", "s.yaml: the configuration of the"),
        ("{class_path: mmmask.synthesis.CosineSchedule, init_args: {temperature: .nan}}", "must be finite"),
        ("{class_path: mmmask.synthesis.AutoNATSchedule, init_args: {ratios: []}}", "s.yaml is cut, or was edited"),
        (None, "there is no schedule 'cosinus'"),
    ],
)
def test_what_is_no_schedule_is_told(folder, tmp_path, text, words, capsys):
    (tmp_path / "s.yaml").write_text(text or "")
    draw = ["generate", "--checkpoint", str(folder / "model"), "--n", "1", "--out", str(tmp_path / "a.png")]
    assert main([*draw, "--schedule", str(tmp_path / "s.yaml") if text else "cosinus"]) == 2
    assert words in capsys.readouterr().err


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
    judge = Judge.__call__
    monkeypatch.setattr(Judge, "__call__", lambda self, strategy: judged.append(1) or judge(self, strategy))
    assert search(folder, tmp_path / "stopped", *options) == 0
    assert 2 < len(judged) < 20  # of 23 or more, and two with other seeds at the end
    assert trail(tmp_path / "stopped") == trail(tmp_path / "quiet")
    assert (tmp_path / "stopped/best.yaml").read_text() == (tmp_path / "quiet/best.yaml").read_text()


def test_two_processes_find_what_one_finds(folder, tmp_path):
    assert search(folder, tmp_path / "one") == 0
    assert search(folder, tmp_path / "two", "--workers", "2") == 0
    for a, b in zip(trail(tmp_path / "one")[1:], trail(tmp_path / "two")[1:], strict=True):
        assert a["value"] == pytest.approx(b["value"], rel=1e-5)


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


CONFIG = {
    "trainer": {"accelerator": "cpu", "max_steps": 3, "check_val_every_n_epoch": None},
    "model": {
        "class_path": "ImageSynthesis",
        "init_args": {
            "backbone": BACKBONE,
            "warmup_steps": 1,
            "masks": {
                "class_path": "mmmask.masking.RatioMask",
                "init_args": {"ratio": {"class_path": "mmmask.masking.Beta", "init_args": {"a": 12, "b": 3}}},
            },
        },
    },
    "data": {"class_path": "ShardData", "init_args": {"batch_size": 4}},
}


@pytest.fixture
def trainings(folder, make_shards, tmp_path):
    """The configuration of a short training, and options that choose two laws."""
    image = {"class_path": "Image", "init_args": {"field": "jpg", "size": 16}}
    readers = {"image": image, "label": {"class_path": "Label"}}
    CONFIG["data"]["init_args"] |= {"train": make_shards([10]), "modalities": readers}
    CONFIG["model"]["init_args"]["tokenizer"] = str(folder / "model")
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(CONFIG))
    return ["--trainings.config", tmp_path / "short.yaml", "--trainings.laws", "[[4, 2], [12, 3]]"]


def alternate(out, *options):
    arguments = ["search", "--metric", "test_searching.Brightness", "--out", out, "--steps", "2", "--images", "6"]
    return main([str(argument) for argument in [*arguments, "--evaluations", "2", *options]])


def test_laws_and_strategy_are_searched_in_turn_and_each_law_is_trained_once(trainings, tmp_path, capsys):
    out = tmp_path / "out"
    assert alternate(out, *trainings) == 0
    shown = capsys.readouterr().out
    assert shown.count("training with masks by Beta") == 2
    assert shown.count("round ") == 2
    laws = [
        yaml.safe_load(path.read_text())["model"]["init_args"]["masks"]["init_args"]["ratio"]["init_args"]
        for path in sorted(out.glob("laws/beta-*/run-1/config.yaml"))
    ]
    assert laws == [{"a": 12.0, "b": 3.0}, {"a": 4.0, "b": 2.0}]
    assert (out / "best.yaml").read_text() == (out / "round-2/best.yaml").read_text()
    first, second = (trail(out / f"round-{n}") for n in (1, 2))
    best = min(first[1:], key=lambda line: line["value"])
    assert second[1]["strategy"] == best["strategy"]  # the second round begins where the first ended
    assert alternate(out, *trainings) == 0  # again: all is there
    assert "training with" not in capsys.readouterr().out
    assert alternate(out, *trainings, "--trainings.options", "[--trainer.max_steps=4]") == 2
    assert "was trained with another configuration or options" in capsys.readouterr().err


def test_a_training_that_was_stopped_does_not_go_on_as_another(trainings, tmp_path, monkeypatch, capsys):
    train = ShortTrainings._train
    monkeypatch.setattr(ShortTrainings, "_train", lambda *given: train(*given) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        alternate(tmp_path / "out", *trainings)
    monkeypatch.undo()
    assert alternate(tmp_path / "out", *trainings, "--trainings.options", "[--trainer.max_steps=4]") == 2
    assert "was trained with another configuration or options" in capsys.readouterr().err


def test_masks_without_a_law_are_told_before_anything_is_trained(tmp_path, capsys):
    assert alternate(
        tmp_path / "out", "--trainings.config", "tokenizer/fashion_mnist.yaml", "--trainings.laws=[[4, 2]]"
    )
    assert "needs masks whose ratio is a Beta" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_training_that_fails_is_told(trainings, tmp_path, capsys):
    assert alternate(tmp_path / "out", *trainings, "--trainings.options", "[--trainer.steps=4]") == 2
    errors = capsys.readouterr().err
    assert "a short training ended with code 2" in errors
    assert "trainer.steps" in errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--steps", "1"], "1 step leaves nothing to search for"),
        (["--images", "0"], "must be 1 or more"),
        (["--seed", "-1"], "seed is -1; give a number from 0"),
        (["--metric", "FrechetDistance", "--metric.statistics", "none.npz"], "none.npz does not exist"),
        (["--optimiser", "FiniteDifferences", "--optimiser.change", "0"], "must be above 0"),
        (["--optimiser", "CMAES", "--optimiser.population", "1"], "a population 2 or more"),
        (["--workers", "2", "--device", "gpu"], "there is no device 'gpu'"),
        (["--trainings.laws", "[[4, 2]]", "--trainings.config", "none.yaml"], "no shipped configuration 'none.yaml'"),
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


def test_a_search_by_another_judge_of_the_same_name_is_refused(folder, tmp_path, capsys):
    shutil.copytree(folder / "judge", tmp_path / "judge")
    eyes = ["--metric", "FrechetDistance", "--metric.statistics", folder / "real.npz"]
    eyes += ["--metric.judge", tmp_path / "judge", "--evaluations", "1"]
    assert search(folder, tmp_path / "out", *eyes) == 0
    torch.manual_seed(5)
    write(tmp_path / "judge", Model({"judge": Classifier(3, 3, 8)}, {"judge": CONSTANT}), "")
    assert search(folder, tmp_path / "out", *eyes) == 2
    assert "holds a search with another metric" in capsys.readouterr().err


def test_searching_less_does_not_forget_the_best(folder, tmp_path):
    assert search(folder, tmp_path) == 0
    best = (tmp_path / "best.yaml").read_text()
    assert search(folder, tmp_path, "--evaluations", "1") == 0
    assert (tmp_path / "best.yaml").read_text() == best


@pytest.mark.parametrize("cut", [0, 20])
def test_a_trail_cut_before_its_first_strategy_is_begun_anew(folder, tmp_path, cut):
    assert search(folder, tmp_path, "--evaluations", "1") == 0
    whole = (tmp_path / "trail.jsonl").read_text()
    (tmp_path / "trail.jsonl").write_text(whole[:cut])
    assert search(folder, tmp_path, "--evaluations", "1") == 0
    assert (tmp_path / "trail.jsonl").read_text() == whole


def test_a_damaged_trail_is_told(folder, tmp_path, capsys):
    assert search(folder, tmp_path, "--evaluations", "1") == 0
    first, second, rest = (tmp_path / "trail.jsonl").read_text().split("\n", 2)
    (tmp_path / "trail.jsonl").write_text("\n".join([first, second[:9], rest]))
    assert search(folder, tmp_path, "--evaluations", "1") == 2
    assert f"line 2 of {tmp_path / 'trail.jsonl'} is damaged" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="processes end with their parent on Linux alone")
@pytest.mark.parametrize("ended_by", [signal.SIGKILL, signal.SIGINT])
def test_the_workers_of_a_search_end_with_it(folder, tmp_path, ended_by):
    arguments = ["--model", folder / "model", "--metric", "test_searching.Brightness", "--out", tmp_path / "out"]
    arguments += ["--workers", "2", "--images", "60", "--evaluations", "5000"]
    command = [sys.executable, "-m", "mmmask.cli", "search", *map(str, arguments)]
    place = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=place, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: (tmp_path / "out/trail.jsonl").exists(), 120)
        os.killpg(process.pid, ended_by) if ended_by == signal.SIGINT else process.kill()
        told = process.communicate(timeout=30)[1]
        wait_for(lambda: not members(process.pid), 10)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert ended_by == signal.SIGKILL or "Traceback" not in told
    assert process.returncode == (130 if ended_by == signal.SIGINT else -ended_by)


def members(group):
    """Processes of a group that still run."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, own, *_ = status.read_text().rpartition(")")[2].split()
            if int(own) == group and state != "Z":
                found.append(status)
    return found


def wait_for(happened, seconds):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_metric_that_gives_no_number_is_told(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Brightness, "compute", lambda *_: torch.tensor(float("nan")))
    assert search(folder, tmp_path) == 2
    assert "the metric gave nan" in capsys.readouterr().err
    monkeypatch.undo()
    assert search(folder, tmp_path, "--images", "6") == 0  # the folder is still free
