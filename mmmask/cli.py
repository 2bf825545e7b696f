"""The command line: `mmmask VERB ...`. The one place that knows the library, the data and the tasks.

Everything heavy is imported inside the verb that needs it, so that `mmmask --help` answers at once.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from mmmask.errors import Stopped, UserError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def program() -> int:
    """`main` as a process, which ends at once: taking torch's objects apart one by one would last over a second."""
    code = FAILED

    def end() -> None:
        for stream in (sys.stdout, sys.stderr):
            with suppress(BrokenPipeError):
                stream.flush()
        os._exit(code)

    atexit.register(end)  # first to be registered, so the last to be called
    try:
        code = main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else OK
        raise
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. `--debug` anywhere shows tracebacks."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except UserError as error:
        if debug:
            raise
        print(f"mmmask{_rank()}: {error}", file=sys.stderr)
        return error.exit_code
    except Stopped as stop:
        if _rank() and not stop.at_once:
            return OK  # rank 0 says how it ended
        print(f"mmmask: {stop}; {stop.way_on}", file=sys.stderr)
        return stop.exit_code
    except BrokenPipeError:  # the reader of our output has had enough, as in `mmmask ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor does the flush at exit complain
        return FAILED
    except OSError as error:
        if debug or error.errno is None:
            raise
        if error.errno in FULL:
            print(
                f"mmmask: the disk is full ({error.strerror}). Make room; `mmmask runs` says what can be resumed.",
                file=sys.stderr,
            )
            return FAILED
        print(f"mmmask: {error.strerror}{f': {error.filename}' if error.filename else ''}.", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        if debug:
            raise
        print("mmmask: interrupted", file=sys.stderr)
        return INTERRUPTED


def _rank() -> str:
    """Which process of a run this is, unless it is the first."""
    rank = next((os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ), "0")
    return f" (rank {rank})" if rank != "0" else ""


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return OK if arguments else USAGE
    verb, *arguments = arguments
    if verb == "--version":
        print(f"mmmask {version('mmmask')}")
        return OK
    if verb not in VERBS:
        from mmmask.errors import nearest

        raise UserError(f"there is no command '{verb}'.{nearest(verb, VERBS)} `mmmask --help` lists all.")
    return VERBS[verb][0](arguments)


def _help() -> str:
    lines = ["usage: mmmask COMMAND [OPTIONS]", "", "commands:"]
    lines += [f"  {name:<10} {text}" for name, (_, text) in VERBS.items()]
    lines += ["", "mmmask COMMAND --help explains one; --debug shows tracebacks; --version."]
    return "\n".join(lines)


def _trainer(verb: str) -> Callable[[list[str]], int]:
    def run(arguments: list[str]) -> int:
        with _signals_end_at_once():
            from tasks.command_line import train

            _know_classes()
            train([verb, *arguments])
        return OK

    return run


def _resume(arguments: list[str]) -> int:
    """Go on with a run: `fit` with its configuration and its last checkpoint, in its folder."""
    if not arguments or arguments[0].startswith("-"):
        print("usage: mmmask resume RUN_FOLDER [OPTIONS OF fit]")
        raise SystemExit(OK if arguments else USAGE)
    run = Path(arguments[0])
    config, last = run / "config.yaml", run / "checkpoints" / "last.ckpt"
    if absent := [str(path) for path in (config, last) if not path.exists()]:
        raise UserError(f"{run} is no run that could go on: there is no {absent[0]}. `mmmask runs` lists all.")
    where = ["--trainer.default_root_dir", str(run.absolute().parent)]
    return _trainer("fit")(["--config", str(config), "--ckpt_path", str(last), *where, *arguments[1:]])


def _runs(arguments: list[str]) -> int:
    named = bool(arguments) and not arguments[0].startswith("-")
    return _call(runs, ["--root", *arguments] if named else arguments, "runs")


def runs(root: Path = Path("runs")) -> None:
    """List the runs in a folder and below, the newest last: state, step, last metrics.

    Args:
        root: where to look.
    """
    from rich.console import Console
    from rich.table import Column, Table

    from tasks.training.run_folder import read, state_of

    found = sorted(root.rglob("run.json"), key=lambda path: (read(path.parent).get("began", ""), path))
    if not found:
        raise UserError(f"there are no runs in {root}. `mmmask fit` makes them; another folder: mmmask runs FOLDER")
    names = ("run", "state", "step", "epoch", "last heard of", "metrics")
    table = Table(*(Column(name, overflow="fold") for name in names), box=None)
    for path in found:
        record = read(path.parent)
        metrics = record.get("metrics", {})
        shown = [name for name in metrics if name.startswith("val/")] or list(metrics)
        when = str(record.get("updated", "?"))[5:16].replace("T", " ")
        place = [str(record.get(name, "?")) for name in ("step", "epoch")]
        words = "  ".join(f"{name} {metrics[name]:.4g}" for name in shown)
        table.add_row(str(path.parent.relative_to(root)), state_of(path.parent), *place, when, words)
    Console(markup=False, width=None if sys.stdout.isatty() else 200).print(table)


def _convert(arguments: list[str]) -> int:
    return _call(convert, arguments, "convert")


def convert(checkpoint: Path, out: Path) -> None:
    """Make one file of a sharded checkpoint (a folder), or a sharded checkpoint of one file.

    Args:
        checkpoint: a folder or a file, as a training wrote it.
        out: where to write the other form.
    """
    from tasks.training.conversion import to_full, to_sharded

    if not checkpoint.exists():
        raise UserError(f"checkpoint {checkpoint} does not exist.")
    (to_full if checkpoint.is_dir() else to_sharded)(checkpoint, out)
    print(out)


@contextmanager
def _signals_end_at_once() -> Iterator[None]:
    """Until a training listens for them itself: there is nothing to finish yet, and a KeyboardInterrupt can get lost
    in foreign code that is being imported."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.signal(signum, _end_at_once) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _end_at_once(signum: int, frame: object) -> None:
    if not _rank():
        print(f"mmmask: stopped by {signal.Signals(signum).name}", file=sys.stderr, flush=True)
    os._exit(128 + signum)


def _know_classes() -> None:
    """Import what configurations may name by its short class name."""
    import datamodules
    import tasks

    _ = datamodules, tasks


def _check(arguments: list[str]) -> int:
    from tasks.checking import check

    _know_classes()
    check(arguments)
    return OK


def _call(functions: Any, arguments: list[str], name: str, by_place: bool = True) -> int:
    """Call a function with arguments read from its signature; those that it must have are told by place, or name."""
    import jsonargparse

    from mmmask.config_errors import Parser

    result = jsonargparse.auto_cli(
        functions, args=arguments, prog=f"mmmask {name}", parser_class=Parser, as_positional=by_place
    )
    return result if isinstance(result, int) else OK


def _shards(arguments: list[str]) -> int:
    from datamodules import commands

    return _call(commands.COMMANDS, arguments, "shards")


def _tokenize(arguments: list[str]) -> int:
    return _call(tokenize, arguments, "tokenize")


def tokenize(
    run: Path,
    shards: str,
    out: Path,
    keep: str = "cls,txt",
    batch_size: int = 256,
    overwrite: bool = False,
    field: str = "jpg",
) -> None:
    """Write the tokens of every sample of `shards` as aligned shards.

    Args:
        run: run folder of a trained tokenizer (its config.yaml and newest checkpoint are used), or an imported one.
        shards: path or pattern of the shards to tokenize.
        out: folder to write into; shard names stay the same.
        keep: small fields to copy along, separated by commas (cls and txt only where they are there).
        batch_size: images encoded at once.
        overwrite: replace shards of the same name.
        field: that holds the pictures, for an imported tokenizer; a run folder knows it.
    """
    from datamodules import Image
    from datamodules.token_shards import write_token_shards
    from mmmask.pretrained.model_files import is_model
    from tasks.command_line import load_run
    from tasks.finished import model_of
    from tasks.tokenizer_training import TokenizerTraining

    _know_classes()
    if is_model(run):
        task = TokenizerTraining(model_of(run).part("tokenizer", run)).eval()
        tokenizer: Any = task.tokenizer
        modalities = {"image": Image(field, size=tokenizer.image_size, channels=tokenizer.channels)}
    else:
        task, data = load_run(run)
        modalities = data.modalities
    fields = [kept.strip() for kept in keep.split(",") if kept.strip()]
    report = write_token_shards(shards, modalities, task.tokens, out, fields, batch_size, overwrite)
    print("\n".join(report))


def _configs(arguments: list[str]) -> int:
    from mmmask import shipped

    return _call({"list": shipped.show, "copy": shipped.copy}, arguments or ["list"], "configs")


def _doctor(arguments: list[str]) -> int:
    return _call(doctor, arguments, "doctor")


def doctor(folder: Path = Path(), json: bool = False) -> int:
    """Look at versions, devices, memory, disk and limits, and try one training step. Exit code 1: cannot train.

    Args:
        folder: where runs would be written.
        json: print a list of records instead of a table.
    """
    from mmmask.doctor import can_train, findings

    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}.")
    found = list(findings(folder))
    if json:
        from dataclasses import asdict
        from json import dumps

        print(dumps([asdict(finding) for finding in found], indent=1))
    else:
        from rich import print as rich_print
        from rich.markup import escape
        from rich.table import Table

        table = Table("", "what", "found", "what to do", box=None)
        colours = {"ok": "green", "warn": "yellow", "fail": "red"}
        for row in found:
            table.add_row(f"[{colours[row.state]}]{row.state}", *map(escape, (row.what, row.found, row.advice)))
        rich_print(table)
        print("training can run" if can_train(found) else "training cannot run: see the rows that say fail")
    return OK if can_train(found) else FAILED


def _demo(arguments: list[str]) -> int:
    return _call(demo, arguments, "demo")


def demo(out: Path = Path("runs/demo")) -> None:
    """Train a small tokenizer and a small ENAT on drawn scenes, and show their pictures (4 minutes on 2 cores).

    Args:
        out: folder for everything that is made.
    """
    from datamodules.overview import save_sheet
    from datamodules.shapes_world_data import ensure_shapes_world
    from datamodules.shards import ShardSet
    from mmmask.shipped import find
    from tasks.generating import generate

    print("1/4 drawing ShapesWorld: scenes with aligned rgb, depth, segmentation, edges, boxes, captions")
    scenes = f"{ensure_shapes_world(train=5_000, test=500)}/test-*.tar"
    out.mkdir(parents=True, exist_ok=True)
    pictures = [save_sheet(ShardSet(scenes), out / "scenes.png", count=12)]
    print("2/4 training a tokenizer")
    tokenizer, synthesis = out / "tokenizer", out / "synthesis"
    _trainer("fit")(["--config", str(find("demo/tokenizer.yaml")), "--trainer.default_root_dir", str(tokenizer)])
    pictures.append(max(out.rglob("reconstruction-*.png"), key=os.path.getmtime))
    print("3/4 writing token shards")
    tokenize(tokenizer, scenes, out / "tokens", overwrite=True)
    print("4/4 training an ENAT: class and visible tokens in, masked tokens out")
    config = ["--config", str(find("demo/synthesis.yaml")), "--model.tokenizer", str(tokenizer)]
    _trainer("fit")([*config, "--trainer.default_root_dir", str(synthesis)])
    pictures += [out / "classes.png", out / "steps.png"]
    generate(synthesis, n=8, out=pictures[-2], strip=pictures[-1])
    print("done. Pictures:")
    for picture in pictures:
        print(f"  {picture}")


def _generate(arguments: list[str]) -> int:
    """`--class` cannot be the name of a parameter, so it is spelled differently on the way."""
    from tasks.generating import generate

    arguments = _listed(_listed(arguments, "--class", ","), "--text", None)
    return _call(generate, ["--classes" if word == "--class" else word for word in arguments], "generate", False)


def _listed(arguments: list[str], option: str, comma: str | None) -> list[str]:
    """`--option a b c` as `--option ["a","b","c"]`, which is how lists are parsed."""
    out: list[str] = []
    rest = list(arguments)
    while rest:
        name, equals, value = rest[0].partition("=")
        if name != option:
            out.append(rest.pop(0))
            continue
        values = [value] if equals else []
        rest.pop(0)
        while rest and not rest[0].startswith("--"):
            values.append(rest.pop(0))
        if not values:
            raise UserError(f"{option} needs a value after it.")
        if comma:
            values = [part for value in values for part in value.strip("[]").split(comma) if part]
        out += [option, json.dumps(values)]
    return out


def _evaluate(arguments: list[str]) -> int:
    return _call(evaluate, arguments, "evaluate", False)


def evaluate(
    checkpoint: Path,
    judge: Path | None = None,
    inception: Path | None = None,
    real: str | None = None,
    field: str = "png",
    statistics: Path | None = None,
    save_statistics: Path | None = None,
    captions: Path | None = None,
    clip: Path | None = None,
    n: int = 1000,
    schedule: Literal["cosine", "enat", "autonat"] | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    temperature: float | None = None,
    seed: int = 0,
    batch_size: int = 64,
    device: str = "auto",
    out: Path | None = None,
) -> None:
    """Draw images and score them: Frechet distance (FID), inception score, precision and recall, consistency with the
    class, CLIP score.

    Args:
        checkpoint: run folder of an image synthesis, or a model that was exported or imported.
        judge: classifier of mmmask whose features are compared; or:
        inception: weights of FID's Inception, as torch-fidelity publishes them.
        real: shards of real images to compare with.
        field: of the shards that holds the image.
        statistics: mean and covariance of real features (.npz with mu, sigma) instead of real images.
        save_statistics: where to keep those of the real images.
        captions: file with a text in each line, for a model that follows texts.
        clip: folder of a CLIP that says how well images fit their captions.
        n: images to draw: classes, or captions, in turn.
        schedule: another one than the model was saved with.
        steps: decoding steps (default: as in training).
        guidance: how far to lean towards the class (default: as in training).
        temperature: how freely words are drawn (default: as in training).
        seed: of the first image; each further one has the next.
        batch_size: images drawn at once.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        out: file that gets a line of JSON with the scores and all settings.
    """
    from datamodules import Image, ShardData
    from tasks.evaluating import Evaluation, extractor_of

    evaluation = Evaluation(checkpoint, extractor_of(judge, inception), device)
    evaluation.follow(captions, clip)
    if statistics is not None:
        evaluation.scores.add_statistics(statistics)
    if real is not None:
        tokenizer = evaluation.tokenizer
        image = Image(field=field, size=tokenizer.image_size, channels=tokenizer.channels)
        data = ShardData(real, {"image": image}, test=real, batch_size=batch_size)
        data.setup("test")
        for batch in data.test_dataloader():
            evaluation.add_real(batch["image"])
    if save_statistics is not None:
        evaluation.scores.save_statistics(save_statistics)
    row = evaluation.run(n, seed, batch_size, out, schedule, steps=steps, guidance=guidance, temperature=temperature)
    for name, value in row.items():
        if isinstance(value, float):
            print(f"{name:<18} {value:.4g}")


def _import(arguments: list[str]) -> int:
    from tasks.models import import_

    return _call(import_, arguments, "import")


def _export(arguments: list[str]) -> int:
    from tasks.models import export

    return _call(export, arguments, "export")


def _hub(arguments: list[str]) -> int:
    from tasks.models import pull, push

    return _call({"push": push, "pull": pull}, arguments, "hub")


VERBS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "demo": (_demo, "see the whole thing work, in minutes, on this machine"),
    "doctor": (_doctor, "say what works on this machine and what to do about the rest"),
    "configs": (_configs, "list the shipped configurations, copy them"),
    "check": (_check, "build what a configuration describes, take one batch, train nothing"),
    "fit": (_trainer("fit"), "train: mmmask fit --config CONFIG.yaml"),
    "resume": (_resume, "go on with a run that was stopped or killed: mmmask resume RUN_FOLDER"),
    "runs": (_runs, "list runs with their state and last metrics"),
    "convert": (_convert, "sharded checkpoint to one file, and back"),
    "validate": (_trainer("validate"), "measure a checkpoint on the validation data"),
    "test": (_trainer("test"), "measure a checkpoint on the test data"),
    "predict": (_trainer("predict"), "run a checkpoint on data"),
    "generate": (_generate, "draw images with a trained or imported model"),
    "evaluate": (_evaluate, "score the images that a model draws: FID, precision, recall, class consistency"),
    "import": (_import, "make a model of a published checkpoint"),
    "export": (_export, "write the model of a run as one folder or file"),
    "hub": (_hub, "push a model to the Hugging Face Hub, or pull one"),
    "tokenize": (_tokenize, "write the tokens of a data set as shards"),
    "shards": (_shards, "convert, index, verify, show, stats of WebDataset shards"),
}


if __name__ == "__main__":
    raise SystemExit(program())
