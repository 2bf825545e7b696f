"""`mmmask search`: the decoding strategy that gives a trained model its best images."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mmmask.errors import UserError
from mmmask.files import only_writer, written_whole
from mmmask.pretrained.model_files import Spec
from mmmask.processes import end_with_parent
from mmmask.report import draw_trail
from mmmask.synthesis import Sampler
from mmmask.synthesis.search import FiniteDifferences, Optimiser, Vector, beginning, parted
from tasks.finished import fingerprint, model_of
from tasks.generating import check_seed, chosen_device
from tasks.image_metrics import ImageMetric
from tasks.samplers import with_schedule
from tasks.short_trainings import ShortTrainings
from tasks.trails import Trail


@dataclass(frozen=True)
class Judging:
    """How a strategy is judged: by images drawn with it, of the same classes and seeds each time."""

    metric: ImageMetric
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
        self.ways, self.device = ways, chosen_device(ways.device)
        self.model = model_of(path).to(self.device)
        self.generator, self.tokenizer = (self.model.part(name, path) for name in ("generator", "tokenizer"))
        if self.generator.classes is None:
            raise UserError(f"{path} follows texts: a strategy is searched with a model that follows classes.")

    def __call__(self, strategy: Vector) -> float:
        metric = self.ways.metric.to(self.device)
        metric.reset()
        for images, classes in self._drawn(with_schedule(self.model, spec_of(strategy))):
            metric.update(images, classes)
        return float(metric.compute())

    @torch.no_grad()
    def _drawn(self, sampler: Sampler) -> Iterator[tuple[Tensor, Tensor]]:
        classes = (torch.arange(self.ways.images) % self.generator.classes).to(self.device)
        seeds = torch.arange(self.ways.seed, self.ways.seed + self.ways.images)
        size = self.ways.batch_size
        for some, own in zip(classes.split(size), seeds.split(size), strict=True):
            ids = sampler.sample(self.generator, some, own)
            yield self.tokenizer.decode(ids.unflatten(1, (self.tokenizer.grid, -1))).float(), some


def search(
    metric: ImageMetric,
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
    if min(images, evaluations, workers, batch_size) < 1:
        raise UserError("search: images, evaluations, workers and batch_size must be 1 or more.")
    check_seed(seed)
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
        "metric": ways.metric.settings(),
        "optimiser": {"class": type(optimiser).__name__, **vars(optimiser)},
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
            print(f"{trail.passed:>5} strategies of at least {evaluations}  {told}", flush=True)
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
    pool = ProcessPoolExecutor(workers, context, _prepare, (number, workers, ways, model))

    def judge_all(strategies: Sequence[Vector]) -> Iterator[float]:
        heard = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for this process alone
        try:
            found = pool.map(_worth, strategies)  # here the workers begin
        finally:
            signal.signal(signal.SIGINT, heard)
        return found

    try:
        yield judge_all
    except BrokenProcessPool as error:
        raise UserError(
            "a worker of the search was killed (was there too little memory?): search again with fewer workers, and it "
            "goes on from here."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare(number: Any, workers: int, ways: Judging, model: Path) -> None:
    """In a worker: its share of the cores, its GPU, its own model."""
    global _judge
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    end_with_parent()
    with number.get_lock():
        mine, number.value = number.value, number.value + 1
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    if ways.device in ("auto", "cuda") and torch.cuda.is_available():
        ways = replace(ways, device=f"cuda:{mine % torch.cuda.device_count()}")
    _judge = ways.of(model)


def _worth(strategy: Vector) -> float:
    assert _judge is not None
    return _judge(strategy)


def _write_best(path: Path, strategy: Vector, found: str) -> None:
    text = f"# Found by mmmask search: {found}.\n{yaml.safe_dump(spec_of(strategy), sort_keys=False)}"
    with written_whole(path) as stream:
        stream.write(text.encode())
