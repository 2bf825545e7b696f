"""Short trainings with different laws of masks (the other half of AutoNAT's search)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from mmmask import shipped
from mmmask.errors import UserError
from mmmask.files import written_whole

Law = tuple[float, float]  # of Beta(a, b)
MADE_WITH, DONE = "made_with.json", "done"


def _has_beta(config: Path) -> bool:
    try:
        ratio = yaml.safe_load(config.read_text())["model"]["init_args"]["masks"]["init_args"]["ratio"]
        return ratio["class_path"].rpartition(".")[2] == "Beta"
    except (yaml.YAMLError, KeyError, TypeError, AttributeError):
        return False


class ShortTrainings:
    """One training with each law.

    Args:
        config: configuration of the training, whose masks have a Beta as their ratio.
        laws: a and b of each Beta.
        options: more for `mmmask fit`, e.g. [--trainer.max_steps=300].
        rounds: how often laws and strategy are searched in turn.
    """

    def __init__(self, config: Path, laws: Sequence[Law], options: Sequence[str] = (), rounds: int = 2) -> None:
        if not laws or rounds < 1:
            raise UserError("ShortTrainings: give one law at least, and 1 round or more.")
        self.config = config if config.is_file() else shipped.find(config.as_posix())
        if not (_has_beta(self.config) or any("masks" in option for option in options)):
            raise UserError(f"ShortTrainings: {self.config} needs masks whose ratio is a Beta: its law is searched.")
        self.laws = [(float(a), float(b)) for a, b in laws]
        self.options, self.rounds = list(options), rounds

    def run(self, law: Law, folder: Path) -> Path:
        """The run with this law; it is trained if it is not there yet, and goes on if it was stopped."""
        run = folder / f"beta-{law[0]:g}-{law[1]:g}"
        made_with = json.dumps({"config": self.config.read_text(), "options": self.options})
        run.mkdir(parents=True, exist_ok=True)
        note = run / MADE_WITH
        if not note.exists():
            with written_whole(note) as stream:
                stream.write(made_with.encode())
        elif note.read_text() != made_with:
            raise UserError(f"{run} was trained with another configuration or options: choose a new folder.")
        if not (run / DONE).exists():
            last = list(run.glob("run-*/checkpoints/last.ckpt"))
            print(f"training with masks by Beta{law}: {run / 'log'}", flush=True)
            self._train(["resume", str(last[0].parent.parent)] if last else self._fit(law, run), run / "log")
            (run / DONE).touch()
        return run

    def _fit(self, law: Law, run: Path) -> list[str]:
        ratio = "--model.init_args.masks.init_args.ratio.init_args"
        arguments = ["fit", "--config", str(self.config), "--trainer.default_root_dir", str(run)]
        return [*arguments, f"{ratio}.a={law[0]}", f"{ratio}.b={law[1]}", *self.options]

    def _train(self, arguments: list[str], log: Path) -> None:
        with open(log, "a") as stream:
            command = [sys.executable, "-m", "mmmask.cli", *arguments]
            code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT).returncode
        if code:
            last = log.read_text().strip().splitlines()[-1:]
            raise UserError(f"a short training ended with code {code}; {log} says: {' '.join(last)}")
