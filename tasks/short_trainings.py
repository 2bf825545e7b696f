"""Short trainings with different laws of masks (the other half of AutoNAT's search)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mmmask import shipped
from mmmask.errors import UserError

Law = tuple[float, float]  # of Beta(a, b)
DONE = "done.json"


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
        self.laws = [(float(a), float(b)) for a, b in laws]
        self.options, self.rounds = list(options), rounds

    def run(self, law: Law, folder: Path) -> Path:
        """The run with this law; it is trained if it is not there yet, and goes on if it was stopped."""
        run = folder / f"beta-{law[0]:g}-{law[1]:g}"
        made_with = {"config": self.config.read_text(), "options": self.options}
        note = run / DONE
        if note.exists():
            if json.loads(note.read_text()) != made_with:
                raise UserError(f"{run} was trained with another configuration or options: choose a new folder.")
            return run
        run.mkdir(parents=True, exist_ok=True)
        last = list(run.glob("run-*/checkpoints/last.ckpt"))
        print(f"training with masks by Beta{law}: {run / 'log'}", flush=True)
        self._train(["resume", str(last[0].parent.parent)] if last else self._fit(law, run), run / "log")
        note.write_text(json.dumps(made_with))
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
