"""The front door: from arguments to an exit code, every mistake a sentence."""

from __future__ import annotations

import atexit
import errno
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import version

from mmmask.cli.calling import called
from mmmask.cli.discovering import assign
from mmmask.cli.models import generate, predict_modality, search
from mmmask.cli.start import configs
from mmmask.cli.training import check, rank, resume, runs, training
from mmmask.errors import Stopped, UserError, nearest

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

VERBS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "demo": (called("demo", "mmmask.cli.start:demo"), "see the whole thing work, in minutes, on this machine"),
    "doctor": (called("doctor", "mmmask.cli.start:doctor"), "say what works here and what to do about the rest"),
    "configs": (configs, "list the shipped configurations, copy them"),
    "check": (check, "build what a configuration describes, take one batch, train nothing"),
    "fit": (training("fit"), "train: mmmask fit --config CONFIG.yaml"),
    "resume": (resume, "go on with a run that was stopped or killed: mmmask resume RUN_FOLDER"),
    "runs": (runs, "list runs with their state and last metrics"),
    "convert": (called("convert", "mmmask.cli.training:convert"), "sharded checkpoint to one file, and back"),
    "validate": (training("validate"), "measure a checkpoint on the validation data"),
    "test": (training("test"), "measure a checkpoint on the test data"),
    "predict": (training("predict"), "run a checkpoint on data"),
    "generate": (generate, "draw images with a trained or imported model"),
    "predict-modality": (predict_modality, "predict any modality from any others with an any-to-any model"),
    "evaluate": (
        called("evaluate", "mmmask.cli.models:evaluate", by_place=False),
        "score the images that a model draws: FID, precision, recall, class consistency",
    ),
    "search": (search, "find the decoding strategy that gives a trained model its best images"),
    "import": (called("import", "tasks.models:import_"), "make a model of a published checkpoint"),
    "export": (called("export", "tasks.models:export"), "write the model of a run as one folder or file"),
    "hub": (called("hub", "tasks.models:HUB"), "push a model to the Hugging Face Hub, or pull one"),
    "tokenize": (called("tokenize", "mmmask.cli.models:tokenize"), "write the tokens of a data set as shards"),
    "vocabulary": (
        called("vocabulary", "mmmask.cli.vocabulary:vocabulary"),
        "learn the words of the captions of shards, and say how long these are",
    ),
    "protocol": (
        called("protocol", "mmmask.cli.protocol:protocol"),
        "say which samples of shards are labelled, for category discovery",
    ),
    "discover": (
        called("discover", "mmmask.cli.discovering:find_categories", by_place=False),
        "find the categories, known and new, of samples of which few are labelled",
    ),
    "assign": (assign, "give new samples the categories that were found"),
    "report": (called("report", "mmmask.cli.discovering:report"), "write a page that shows the categories found"),
    "shards": (called("shards", "datamodules.commands:COMMANDS"), "pack, index, verify and show WebDataset shards"),
}


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
        print(f"mmmask{rank()}: {error}", file=sys.stderr)
        return error.exit_code
    except Stopped as stop:
        if rank() and not stop.at_once:
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


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return OK if arguments else USAGE
    verb, *arguments = arguments
    if verb == "--version":
        print(f"mmmask {version('mmmask')}")
        return OK
    if verb not in VERBS:
        raise UserError(f"there is no command '{verb}'.{nearest(verb, VERBS)} `mmmask --help` lists all.")
    return VERBS[verb][0](arguments)


def _help() -> str:
    lines = ["usage: mmmask COMMAND [OPTIONS]", "", "commands:"]
    lines += [f"  {name:<16} {text}" for name, (_, text) in VERBS.items()]
    lines += ["", "mmmask COMMAND --help explains one; --debug shows tracebacks; --version."]
    return "\n".join(lines)
