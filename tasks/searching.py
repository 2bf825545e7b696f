"""`mmmask search`: the decoding strategy that gives a trained model its best images."""

from __future__ import annotations

import json
import multiprocessing
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mmmask.errors import UserError
from mmmask.files import only_writer, written_whole
from mmmask.metrics import ImageScores
from mmmask.synthesis import Sampler
from mmmask.synthesis.search import FiniteDifferences, Optimiser, Vector, beginning, parted, schedule
from tasks.evaluating import extractor_of
from tasks.finished import fingerprint, model_of
from tasks.generating import chosen_device
from tasks.short_trainings import ShortTrainings
from tasks.trails import Trail, plot


class Metric(ABC):
    """What images are worth."""

    @abstractmethod
    def __call__(self, images: Tensor, classes: Tensor) -> float:
        """Of images `(N, C, H, W)` in 0..1 of classes `(N,)`; less is better."""


class FrechetDistance(Metric):
    """How far features of images are from those of real ones (FID, if the features are Inception's).

    Args:
        statistics: mean and covariance of real features, as `mmmask evaluate --save_statistics` keeps them.
        judge: classifier of mmmask whose features are compared; or:
        inception: weights of FID's Inception, as torch-fidelity publishes them.
    """

    def __init__(self, statistics: Path, judge: Path | None = None, inception: Path | None = None) -> None:
        for path in (statistics, judge, inception):
            if path is not None and not path.exists():
                raise UserError(f"{path} does not exist: the search cannot tell what images are worth.")
        self.statistics, self.judge, self.inception = statistics, judge, inception
        self.extractor: Any = None

    def __call__(self, images: Tensor, classes: Tensor) -> float:
        self.extractor = self.extractor or extractor_of(self.judge, self.inception).to(images.device)
        scores = ImageScores(self.extractor)
        scores.add_statistics(self.statistics)
        for some in images.split(500):
            scores.add_generated(some)
        return scores.compute()["frechet_distance"]


class Judging:
    """The worth of a strategy: that of images drawn with it, of the same classes and seeds each time."""

    def __init__(self, model: Path, metric: Metric, images: int, seed: int, batch_size: int, device: str) -> None:
        self.metric, self.device = metric, chosen_device(device)
        content = model_of(model)
        self.generator = content.part("generator", model).to(self.device)
        self.tokenizer = content.part("tokenizer", model).to(self.device)
        if self.generator.classes is None:
            raise UserError(f"{model} follows texts: a strategy is searched with a model that follows classes.")
        self.classes = (torch.arange(images) % self.generator.classes).to(self.device)
        self.seeds, self.batch_size = torch.arange(seed, seed + images), batch_size

    @torch.no_grad()
    def __call__(self, strategy: Vector) -> float:
        sampler, drawn = Sampler(schedule(strategy)), []
        for classes, seeds in zip(self.classes.split(self.batch_size), self.seeds.split(self.batch_size), strict=True):
            ids = sampler.sample(self.generator, classes, seeds)
            drawn.append(self.tokenizer.decode(ids.unflatten(1, (self.tokenizer.grid, -1))).float())
        return float(self.metric(torch.cat(drawn), self.classes))


def search(
    model: Path,
    metric: Metric,
    out: Path = Path("runs/search"),
    steps: int = 4,
    optimiser: Optimiser | None = None,
    evaluations: int = 150,
    images: int = 1000,
    seed: int = 0,
    workers: int = 1,
    batch_size: int = 250,
    device: str = "auto",
    trainings: ShortTrainings | None = None,
) -> None:
    """Search for the decoding strategy with the best images; `out` gets the best one, the trail and a plot of it.

    Run again with the same settings, it goes on where it was stopped.

    Args:
        model: run folder of an image synthesis, or a model that was exported or imported. With trainings: where the
            first strategy comes from.
        metric: what images are worth, e.g. class_path: FrechetDistance.
        out: folder for best.yaml (for `mmmask generate --schedule`), trail.jsonl, trail.png.
        steps: decoding steps.
        optimiser: FiniteDifferences (AutoNAT's own, the default) or CMAES.
        evaluations: strategies to judge, at least.
        images: drawn to judge a strategy.
        seed: of the first image; each further one has the next.
        workers: processes that judge strategies at the same time; with several GPUs each takes another.
        batch_size: images drawn at once.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        trainings: also search the law of masks in training, in turn with the strategy.
    """
    if min(images, evaluations, workers, batch_size) < 1:
        raise UserError("search: images, evaluations, workers and batch_size must be 1 or more.")
    optimiser, start = optimiser or FiniteDifferences(), beginning(steps)
    ways: dict[str, Any] = {"metric": metric, "images": images, "seed": seed, "batch_size": batch_size}
    ways["device"] = device
    if trainings is None:
        search_strategy(model, start, out, optimiser, evaluations, workers, **ways)
        return
    for number in range(1, trainings.rounds + 1):
        here = out / f"round-{number}"
        law, model = trainings.best(here, lambda run: Judging(run, **ways)(start))  # noqa: B023
        print(f"round {number}: masks by Beta{law}")
        start = search_strategy(model, start, here, optimiser, evaluations, workers, **ways)


def search_strategy(
    model: Path,
    start: Vector,
    out: Path,
    optimiser: Optimiser,
    evaluations: int,
    workers: int,
    metric: Metric,
    images: int,
    seed: int,
    batch_size: int,
    device: str,
) -> Vector:
    """Search from `start` on; returns the best strategy. See `search`."""
    settings = {
        "model": fingerprint(model_of(model).part("generator", model)),
        "metric": _described(metric),
        "number of steps": (len(start) + 2) // 4,
        "start": start.tolist(),
        "optimiser": _described(optimiser),
        "number of images": images,
        "seed": seed,
    }
    wanted = {"model": model, "metric": metric, "images": images, "seed": seed, "batch_size": batch_size}
    wanted["device"] = device
    optimiser.start(start, seed)
    with only_writer(out), judges(workers, wanted) as judge_all:
        trail = Trail(out / "trail.jsonl", settings)
        while trail.passed < evaluations:
            asked = optimiser.ask()
            values = trail.recall(asked)
            for strategy, value in zip(asked[len(values) :], judge_all(asked[len(values) :]), strict=True):
                trail.add(strategy, value)
                values.append(value)
            optimiser.tell(values)
            best, worth = trail.best
            _write_best(out / "best.yaml", best, worth, settings)
            print(f"{trail.passed:>5} of {evaluations} strategies  this round {min(values):.4g}  best {worth:.4g}")
        plot(trail, out / "trail.png")
    print(f"{out / 'best.yaml'}: {worth:.4g}, from {trail.values[0]:.4g} at the start")
    return best


_judging: Judging | None = None  # of a worker process


@contextmanager
def judges(workers: int, wanted: dict[str, Any]) -> Iterator[Callable[[Sequence[Vector]], Iterator[float]]]:
    """A function that judges strategies, in order, by so many processes; by this one if it is one."""
    if workers == 1:
        judging = Judging(**wanted)
        yield lambda strategies: map(judging, strategies)
        return
    context = multiprocessing.get_context("spawn")
    number = context.Value("i", 0)
    with ProcessPoolExecutor(workers, context, _prepare, (number, workers, wanted)) as pool:
        yield lambda strategies: pool.map(_judge, strategies)


def _prepare(number: Any, workers: int, wanted: dict[str, Any]) -> None:
    """In a worker: its share of the cores, its GPU, its own model."""
    global _judging
    with number.get_lock():
        mine, number.value = number.value, number.value + 1
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    device = wanted["device"]
    if device in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{mine % torch.cuda.device_count()}"
    _judging = Judging(**{**wanted, "device": device})


def _judge(strategy: Vector) -> float:
    assert _judging is not None
    return _judging(strategy)


def _described(thing: Any) -> dict[str, Any]:
    """Class and plain settings, to be compared after a stop."""
    plain = {name: value for name, value in vars(thing).items() if isinstance(value, (int, float, str, Path))}
    return {"class": type(thing).__name__, **json.loads(json.dumps(plain, default=str))}


def _write_best(path: Path, strategy: Vector, worth: float, settings: dict[str, Any]) -> None:
    """The strategy as the part of a configuration that says how to sample."""
    spec = {"class_path": "mmmask.synthesis.AutoNATSchedule", "init_args": parted(strategy)}
    by = f"{settings['metric']['class']} of {settings['number of images']} images"
    found = f"# Found by mmmask search: {worth:.6g} by {by}.\n"
    with written_whole(path) as stream:
        stream.write((found + yaml.safe_dump(spec, sort_keys=False)).encode())
