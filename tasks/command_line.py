"""LightningCLI as mmmask uses it: class paths in YAML, errors as sentences, `check` and `load_run` on top."""

from __future__ import annotations

import logging
import pickle
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mmmask import shipped
from mmmask.config_errors import check_readable, known_keys, sentence
from mmmask.errors import UserError


class Parser(LightningArgumentParser):
    """Complains in one sentence."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the complaint as a sentence."""
        raise UserError(sentence(message, known_keys(self))) from ex


class SaveConfig(SaveConfigCallback):
    """Writes what was run to config.yaml, without what belongs to the call: every verb can read it again."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **options: Any) -> None:
        config = config.clone()
        for name in ("ckpt_path", "weights_only", "verbose", "return_predictions"):
            config.pop(name, None)
        super().__init__(parser, config, **options)


class CommandLine(LightningCLI):
    """LightningCLI that looks at the checkpoint before anything is built, and never unpickles objects from it."""

    def _parse_ckpt_path(self) -> None:
        """Check `--ckpt_path` if the verb has one. (Lightning's own lets the settings stored in the checkpoint
        win over the command line.)"""
        settings = self.config[self.config.subcommand] if self.config.get("subcommand") else {}
        if settings.get("ckpt_path"):
            check_checkpoint(settings["ckpt_path"])
            settings["weights_only"] = True
        elif self.config.get("subcommand") in ("validate", "test", "predict"):
            print("no --ckpt_path: these are the weights as the configuration makes them, untrained", file=sys.stderr)

    def instantiate_classes(self) -> None:
        """Build everything; what a constructor complains of is a sentence too."""
        try:
            super().instantiate_classes()
        except (TypeError, ValueError) as error:
            if "Errors:" not in str(error):
                raise
            raise UserError(sentence(str(error), ())) from error


def check_checkpoint(path: str) -> None:
    """Refuse a checkpoint that is missing, cut, foreign, or holds more than tensors and plain values."""
    if path in ("best", "last", "hpc", "registry") or "://" in path:
        return
    if not Path(path).is_file():
        raise UserError(f"checkpoint {path} does not exist.")
    try:
        content = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"checkpoint {path} holds Python objects, which can run code: it is not loaded.") from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        raise UserError(f"checkpoint {path} is damaged or no checkpoint at all. Take an older one.") from error
    if not isinstance(content, dict) or "state_dict" not in content or "loops" not in content:
        raise UserError(f"checkpoint {path} was not written by a training of mmmask, so it cannot be continued.")


def command_line(arguments: list[str], run: bool) -> LightningCLI:
    """Parse, instantiate and, with `run`, execute the verb that `arguments` begin with."""
    arguments = _with_configurations(arguments)
    noises = "LightningCLI's args parameter", ".*isinstance.treespec", ".*does not have many workers", "The dirpath has"
    for noise in noises:
        warnings.filterwarnings("ignore", message=noise)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda r: "Tip:" not in r.getMessage())
    with lightning_sentences():
        return CommandLine(
            pl.LightningModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=Parser,
            seed_everything_default=0,
            parser_kwargs={"prog": "mmmask" if run else "mmmask check"},
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True},
            auto_configure_optimizers=False,
            args=arguments,
            run=run,
        )


@contextmanager
def lightning_sentences() -> Iterator[None]:
    """What Lightning refuses is a mistake in the settings: a sentence, without its traceback."""
    try:
        yield
    except (MisconfigurationException, ValueError, TypeError, ZeroDivisionError) as error:
        innermost = list(traceback.walk_tb(error.__traceback__))[-1][0].f_code.co_filename
        if not isinstance(error, MisconfigurationException) and "lightning" not in Path(innermost).parts:
            raise
        raise UserError(f"the trainer refuses: {' '.join(str(error).split()).rstrip('.')}.") from error
    except RuntimeError as error:
        if "Error(s) in loading state_dict" not in str(error):
            raise
        first = str(error).splitlines()[1].strip().rstrip(".")
        raise UserError(
            f"the checkpoint is not one of this model ({first}). Give the config.yaml that lies beside it."
        ) from error


def _with_configurations(arguments: list[str]) -> list[str]:
    """Replace names of shipped configurations by their paths, and look at each before it is parsed."""
    found, rest = [], iter(arguments)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag in ("-c", "--config"):
            path = Path(value if equals else next(rest, ""))
            if not path.exists() and path.as_posix().removeprefix("configs/") in shipped.names():
                path = shipped.find(path.as_posix())
            check_readable(path)
            argument = f"--config={path}"
        found.append(argument)
    return found


def train(arguments: list[str]) -> None:
    """Run one of fit, validate, test, predict."""
    try:
        trainer = command_line(arguments, run=True).trainer
    except SystemExit as ended:  # as Lightning ends an interrupted run, with exit code 1
        if isinstance(ended.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    if trainer.is_global_zero and trainer.log_dir:
        print(f"run folder: {trainer.log_dir}")


def check(arguments: list[str]) -> None:
    """Build everything, take one training batch, and say how large it all is."""
    cli = command_line(arguments, run=False)
    from rich import print as rich_print
    from rich.markup import escape
    from rich.table import Table

    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    loader = cli.datamodule.train_dataloader()
    start = time.perf_counter()
    batch = next(iter(loader))
    table = Table("what", "value", box=None)
    for name, value in batch.items():
        shown = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, torch.Tensor) else f"{len(value)} entries"
        table.add_row(escape(f"batch[{name}]"), shown)
    parameters = sum(p.numel() for p in cli.model.parameters())
    trained = sum(p.numel() for p in cli.model.parameters() if p.requires_grad)
    table.add_row("parameters", f"{parameters:,} ({trained:,} trained)")
    table.add_row("memory", f"{_training_bytes(cli.model) / 2**20:,.1f} MiB for weights, gradients and Adam's state")
    table.add_row("batch memory", f"{_batch_bytes(batch) / 2**20:,.1f} MiB")
    table.add_row("steps per epoch", f"{_steps_per_epoch(cli.trainer, len(loader)):,}")
    table.add_row("first batch", f"{time.perf_counter() - start:.2f} s")
    rich_print(table)


def _steps_per_epoch(trainer: pl.Trainer, batches: int) -> int:
    """Optimiser steps; `batches` is what one rank alone would have."""
    batches = -(-batches // trainer.world_size)
    limit = trainer.limit_train_batches
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return -(-batches // max(1, trainer.accumulate_grad_batches))


def _training_bytes(model: torch.nn.Module) -> int:
    weights = sum(p.numel() * p.element_size() for p in [*model.parameters(), *model.buffers()])
    return weights + 3 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)


def _batch_bytes(batch: dict[str, Any]) -> int:
    return sum(value.numel() * value.element_size() for value in batch.values() if isinstance(value, torch.Tensor))


def load_run(run: Path) -> tuple[Any, Any]:
    """The task (with its trained weights, in eval mode) and the data of a run folder."""
    if not run.is_dir():
        raise UserError(f"there is no run folder {run}. Train first: mmmask fit --config ...")
    checkpoints = sorted(run.rglob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    if not checkpoints:
        raise UserError(f"{run} holds no checkpoint (*.ckpt). Let the training reach its first one.")
    configs = [folder / "config.yaml" for folder in checkpoints[-1].parents if (folder / "config.yaml").is_file()]
    if not configs:
        raise UserError(f"there is no config.yaml beside {checkpoints[-1]} that says what it is a checkpoint of.")
    check_checkpoint(str(checkpoints[-1]))
    cli = command_line(["--config", str(configs[0])], run=False)
    state = torch.load(checkpoints[-1], map_location="cpu", weights_only=True)
    with lightning_sentences():
        cli.model.load_state_dict(state["state_dict"])
    return cli.model.eval(), cli.datamodule
