"""`mmmask search`: the decoding strategy that gives a trained model its best images."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mmmask.errors import UserError
from mmmask.files import only_writer, written_whole
from mmmask.metrics import Extractor, ImageScores
from mmmask.pretrained.model_files import Spec
from mmmask.report import draw_trail
from mmmask.synthesis import Sampler
from mmmask.synthesis.search import FiniteDifferences, Optimiser, Vector, beginning, parted
from tasks.evaluating import extractor_of
from tasks.finished import fingerprint, model_of
from tasks.generating import chosen_device
from tasks.samplers import with_schedule
from tasks.short_trainings import ShortTrainings
from tasks.trails import Trail


class Metric(ABC):
    """What images are worth."""

    @abstractmethod
    def __call__(self, drawn: Iterable[tuple[Tensor, Tensor]]) -> float:
        """Of batches of images `(B, C, H, W)` in 0..1 and their classes `(B,)`; less is better."""


class FrechetDistance(Metric):
    """How far features of images are from those of real ones (FID, if the features are Inception's).

    Args:
        statistics: mean and covariance of real features, as `mmmask evaluate --save_statistics` keeps them.
        judge: run folder of a trained classifier, or an exported one, whose features are compared; or:
        inception: weights of FID's Inception, as torch-fidelity publishes them.
    """

    def __init__(self, statistics: Path, judge: Path | None = None, inception: Path | None = None) -> None:
        for path in (statistics, judge, inception):
            if path is not None and not path.exists():
                raise UserError(f"{path} does not exist: the search cannot tell what images are worth.")
        if (judge is None) == (inception is None):
            raise UserError("FrechetDistance: give either judge, a classifier of mmmask, or inception, FID's weights.")
        self.statistics, self.judge, self.inception = statistics, judge, inception

    def __call__(self, drawn: Iterable[tuple[Tensor, Tensor]]) -> float:
        scores = ImageScores(self._extractor)
        scores.add_statistics(self.statistics)
        for images, _ in drawn:
            scores.extractor.to(images.device)
            scores.add_generated(images)
        return scores.compute()["frechet_distance"]

    @cached_property
    def _extractor(self) -> Extractor:
        return extractor_of(self.judge, self.inception)


@dataclass(frozen=True)
class Judging:
    """How a strategy is judged: by images drawn with it, of the same classes and seeds each time."""

    metric: Metric
    images: int = 1000
    seed: int = 0
    batch_size: int = 250
    device: str = "auto"

    def of(self, model: Path) -> Judge:
        """The judge of this model's images."""
        return Judge(self, model)


class Judge:
    """Says what a strategy is worth with one model."""

    def __init__(self, ways: Judging, path: Path) -> None:
        self.ways, self.device, self.model = ways, chosen_device(ways.device), model_of(path)
        self.generator = self.model.part("generator", path).to(self.device)
        self.tokenizer = self.model.part("tokenizer", path).to(self.device)
        if self.generator.classes is None:
            raise UserError(f"{path} follows texts: a strategy is searched with a model that follows classes.")

    def __call__(self, strategy: Vector) -> float:
        return float(self.ways.metric(self._drawn(with_schedule(self.model, spec_of(strategy)))))

    @torch.no_grad()
    def _drawn(self, sampler: Sampler) -> Iterator[tuple[Tensor, Tensor]]:
        classes = (torch.arange(self.ways.images) % self.generator.classes).to(self.device)
        seeds = torch.arange(self.ways.seed, self.ways.seed + self.ways.images)
        size = self.ways.batch_size
        for some, own in zip(classes.split(size), seeds.split(size), strict=True):
            ids = sampler.sample(self.generator, some, own)
            yield self.tokenizer.decode(ids.unflatten(1, (self.tokenizer.grid, -1))).float(), some


def search(
    metric: Metric,
    model: Path | None = None,
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
        metric: what images are worth, e.g. class_path: FrechetDistance.
        model: run folder of an image synthesis, or a model that was exported or imported; not with trainings.
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
    if min(images, evaluations, workers, batch_size) < 1 or seed < 0:
        raise UserError("search: images, evaluations, workers and batch_size must be 1 or more, seed 0 or more.")
    if (model is None) == (trainings is None):
        raise UserError("search: give either a model, or trainings that make some.")
    ways, start = Judging(metric, images, seed, batch_size, device), beginning(steps)
    chosen_device(device)
    optimiser = optimiser or FiniteDifferences()
    with only_writer(out):
        if model is not None:
            search_strategy(model, start, out, optimiser, ways, evaluations, workers)
            return
        assert trainings is not None
        runs = {law: trainings.run(law, out / "laws") for law in trainings.laws}
        for number in range(1, trainings.rounds + 1):
            worth = {law: ways.of(run)(start) for law, run in runs.items()}
            law = min(worth, key=lambda law: worth[law])
            print(f"round {number}: " + ", ".join(f"masks by Beta{law} {value:.4g}" for law, value in worth.items()))
            here = out / f"round-{number}"
            start = search_strategy(runs[law], start, here, optimiser, ways, evaluations, workers)
        shutil.copy(here / "best.yaml", out / "best.yaml")
        print(f"{out / 'best.yaml'}: for masks by Beta{law}")


def search_strategy(
    model: Path, start: Vector, out: Path, optimiser: Optimiser, ways: Judging, evaluations: int, workers: int
) -> Vector:
    """Search from `start` on; returns the best strategy, which `out` gets too."""
    content = model_of(model)
    settings: dict[str, Any] = {
        "model": fingerprint(content.part("generator", model)) + fingerprint(content.part("tokenizer", model)),
        "number of steps": (len(start) + 2) // 4,
        "sampler": {**with_schedule(content, spec_of(start)).settings(), "steps": start.tolist()},
        "metric": _described(ways.metric),
        "optimiser": _described(optimiser),
        "number of images": ways.images,
        "seed": ways.seed,
    }
    out.mkdir(parents=True, exist_ok=True)
    trail = Trail(out / "trail.jsonl", settings)
    optimiser.start(start, ways.seed)
    with judges(workers, ways, model) as judge_all:
        asked, tell = [start], False
        while trail.passed < evaluations or not tell:
            values = trail.recall(asked)
            for strategy, value in zip(asked[len(values) :], judge_all(asked[len(values) :]), strict=True):
                trail.add(strategy, value)
                values.append(value)
            if tell:
                optimiser.tell(values)
            best, worth = trail.best
            _write_best(out / "best.yaml", best, f"{worth:.6g} by {settings['metric']['class']}")
            told = f"these {min(values):.4g}  best {worth:.4g}"
            print(f"{trail.passed:>5} of {evaluations} strategies  {told}", flush=True)
            asked, tell = optimiser.ask(), True
    draw_trail(trail.strategies, trail.values, out / "trail.png")
    fresh = replace(ways, seed=ways.seed + 1_000_000).of(model)  # the best of many is partly the best by luck
    print(f"{out / 'best.yaml'}: with other seeds {fresh(best):.4g}, the start {fresh(start):.4g}")
    return best


def spec_of(strategy: Vector) -> Spec:
    """The strategy as the part of a configuration that says how to decode."""
    return {"class_path": "mmmask.synthesis.AutoNATSchedule", "init_args": parted(strategy)}


_judge: Judge | None = None  # of a worker process


@contextmanager
def judges(workers: int, ways: Judging, model: Path) -> Iterator[Callable[[Sequence[Vector]], Iterator[float]]]:
    """A function that judges strategies, in order, by so many processes; by this one if it is one."""
    if workers == 1:
        judge = ways.of(model)
        yield lambda strategies: map(judge, strategies)
        return
    context = multiprocessing.get_context("spawn")
    number = context.Value("i", 0)
    with ProcessPoolExecutor(workers, context, _prepare, (number, workers, ways, model)) as pool:
        yield lambda strategies: pool.map(_worth, strategies)


def _prepare(number: Any, workers: int, ways: Judging, model: Path) -> None:
    """In a worker: its share of the cores, its GPU, its own model."""
    global _judge
    with number.get_lock():
        mine, number.value = number.value, number.value + 1
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    if ways.device in ("auto", "cuda") and torch.cuda.is_available():
        ways = replace(ways, device=f"cuda:{mine % torch.cuda.device_count()}")
    _judge = ways.of(model)


def _worth(strategy: Vector) -> float:
    assert _judge is not None
    return _judge(strategy)


def _described(thing: Any) -> dict[str, Any]:
    """Class and plain settings, to be compared after a stop."""
    plain = {name: value for name, value in vars(thing).items() if isinstance(value, (int, float, str, Path))}
    return {"class": type(thing).__name__, **json.loads(json.dumps(plain, default=str))}


def _write_best(path: Path, strategy: Vector, found: str) -> None:
    text = f"# Found by mmmask search: {found}.\n{yaml.safe_dump(spec_of(strategy), sort_keys=False)}"
    with written_whole(path) as stream:
        stream.write(text.encode())
