"""LightningCLI as mmmask uses it: class paths in YAML, errors as sentences, `check` and `load_run` on top."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
from jsonargparse import Namespace
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from mmmask import shipped
from mmmask.config_errors import known_keys, sentence
from mmmask.errors import Stopped, UserError
from mmmask.files import written_whole
from tasks.sentences import lightning_sentences
from tasks.training import finding, run_folder
from tasks.training.checkpoints import Checkpoints
from tasks.training.ema import averaged
from tasks.training.guards import Guards
from tasks.training.parallel import Parallel
from tasks.training.progress import Progress
from tasks.training.randomness import Randomness
from tasks.training.ranks import Ranks
from tasks.training.run_folder import Metrics, RunRecord
from tasks.training.speed import Speed
from tasks.training.stopping import requeue
from tasks.training.whole_files import WholeFiles


class Parser(LightningArgumentParser):
    """Complains in one sentence."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the complaint as a sentence."""
        raise UserError(sentence(message, known_keys(self))) from ex


class SaveConfig(SaveConfigCallback):
    """Writes what is trained to config.yaml, without what belongs to the call: every verb can read it again."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace, **options: Any) -> None:
        config = config.clone()
        for name in ("ckpt_path", "weights_only", "verbose", "return_predictions"):
            config.pop(name, None)
        super().__init__(parser, config, **options)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Not yet: what does not fit the checkpoint of a run must not replace its configuration."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        folder = trainer.log_dir or trainer.default_root_dir  # all ranks must ask
        if trainer.is_global_zero:
            with written_whole(Path(folder) / "config.yaml") as stream:
                stream.write(self.parser.dump(self.config, skip_none=False).encode())


class CommandLine(LightningCLI):
    """LightningCLI that looks at the checkpoint before anything is built, never unpickles objects from it, and
    surrounds every training with what is in `tasks.training`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Sections of a configuration besides trainer, model and data."""
        parser.set_defaults({"trainer.default_root_dir": "runs"})
        for section, callback in {
            "checkpoints": Checkpoints,
            "guards": Guards,
            "parallel": Parallel,
            "progress": Progress,
        }.items():
            parser.add_lightning_class_args(callback, section)

    def _parse_ckpt_path(self) -> None:
        """Find and check `--ckpt_path` if the verb has one. (Lightning's own lets the settings stored in the
        checkpoint win over the command line.)"""
        verb = self.config.get("subcommand")
        settings = self.config[verb] if verb else {}
        for option in ("ckpt_path", "trainer.default_root_dir"):
            if "://" in str(settings.get(option)):
                raise UserError(f"{option} is {settings[option]}: runs and checkpoints are files on this machine.")
        self._resumed: finding.Resumed | None = None
        self._record: RunRecord | None = None
        path = None
        if name := settings.get("ckpt_path"):
            path = finding.named(str(name), root := Path(settings["trainer.default_root_dir"] or "runs"))
            if path is None and verb != "fit":
                raise UserError(f"no run in {root} has a checkpoint {name}.ckpt. Give the path of a checkpoint.")
        if path:
            self._resumed = finding.checked(path)
        elif verb in ("validate", "test", "predict"):
            print("no --ckpt_path: these are the weights as the configuration makes them, untrained", file=sys.stderr)
        if name:
            settings["ckpt_path"], settings["weights_only"] = path and str(path), True

    def instantiate_classes(self) -> None:
        """Build everything; what a constructor complains of is a sentence too."""
        try:
            super().instantiate_classes()
        except (TypeError, ValueError) as error:
            if "Errors:" not in str(error):
                raise
            raise UserError(sentence(str(error), ())) from error
        if self._resumed and getattr(self.model, "init_from", None) is not None:
            self.model.init_from = None  # its beginning is long over

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the verb; how it ended is told in a sentence, with the way on."""
        try:
            with lightning_sentences(self.trainer):
                super()._run_subcommand(subcommand)
        except Stopped as stop:
            stop.way_on = _way_on(self.trainer, stop)
            raise

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[pl.Callback]) -> pl.Trainer:
        """The trainer with our callbacks, unless they are switched off, and for a training in its run folder."""
        given = _listed(config.get("callbacks"))
        off: list[type] = [kind for kind, name in SWITCHES.items() if config.get(name) is False]
        off += [Progress for callback in given if isinstance(callback, ProgressBar)]
        callbacks = [callback for callback in callbacks if not isinstance(callback, tuple(off))]
        config["callbacks"] = [*given, Ranks(), Randomness(), Speed()]
        config["plugins"] = [*_listed(config.get("plugins")), WholeFiles()]
        if self.subcommand == "fit" and not config.get("fast_dev_run"):
            self._give_folder(config)
        elif self.subcommand and config.get("logger") is None:
            config["logger"] = False
        trainer = super()._instantiate_trainer(config, callbacks)
        if self._record:
            trainer.callbacks.append(self._record)  # type: ignore[attr-defined]  # after those that write checkpoints
        return trainer

    def _give_folder(self, config: dict[str, Any]) -> None:
        """The folder of the run that is resumed, or a new one. Only rank 0 writes there; it tells the others."""
        root = Path(config["default_root_dir"] or "runs")
        folder = finding.of_checkpoint(self._resumed.path, root) if self._resumed else None
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            folder = folder or run_folder.begin(root)
        step = self._resumed.step if self._resumed and folder else 0
        folder = folder or root
        config["default_root_dir"] = folder
        self._record = RunRecord(folder, holds=rank_zero_only.rank == 0)  # type: ignore[attr-defined]
        if config.get("logger") is not False:
            own = [Metrics(folder, step), TensorBoardLogger(folder, "", "", flush_secs=10, purge_step=step or None)]
            config["logger"] = own + [logger for logger in _listed(config.get("logger")) if logger is not True]


def _way_on(trainer: pl.Trainer, stop: Stopped) -> str:
    """What to do after a stop; on SLURM, where the signal means it, have the job queued again."""
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment) and stop.signal == environment.requeue_signal:
        if trainer.is_global_zero:
            requeue()
        return "the job was queued again; with --ckpt_path last it goes on where it stopped"
    if not (Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt").exists():
        return "there is no checkpoint yet"
    return f"go on with: mmmask resume {trainer.default_root_dir}"


SWITCHES = {Checkpoints: "enable_checkpointing", Progress: "enable_progress_bar"}


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def command_line(arguments: list[str], run: bool) -> LightningCLI:
    """Parse, instantiate and, with `run`, execute the verb that `arguments` begin with."""
    arguments = shipped.with_paths(arguments)
    noises = (
        "You have overridden",
        "LightningCLI's args parameter",
        ".*isinstance.treespec",
        ".*does not have many workers",
        "The dirpath has",
    )
    for noise in noises:
        warnings.filterwarnings("ignore", message=noise)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_worth_telling)
    logging.getLogger("lightning.pytorch.trainer.connectors.checkpoint_connector").setLevel(logging.WARNING)
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


def _worth_telling(record: logging.LogRecord) -> bool:
    words = record.getMessage()
    return not any(noise in words for noise in ("Tip:", "to estimate number of stepping"))


def train(arguments: list[str]) -> None:
    """Run one of fit, validate, test, predict."""
    trainer = command_line(arguments, run=True).trainer
    if trainer.is_global_zero and trainer.state.fn == "fit":
        print(f"run folder: {trainer.default_root_dir}")


def load_run(run: Path) -> tuple[Any, Any]:
    """The task (with its trained weights, averaged if they were, in eval mode) and the data of a run folder."""
    checkpoint, config = finding.trained(run)
    cli = command_line(["--config", str(config)], run=False)
    state = WholeFiles().load_checkpoint(checkpoint, weights_only=True)
    with lightning_sentences():
        cli.model.load_state_dict(averaged(state))
    return cli.model.eval(), cli.datamodule
