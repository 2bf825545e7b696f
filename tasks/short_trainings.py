"""Which share of tokens to mask in training, by short trainings (the other half of AutoNAT's search)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mmmask.errors import UserError

Law = tuple[float, float]  # of Beta(a, b)


class ShortTrainings:
    """Trains with each law and takes the one whose images are best.

    Args:
        config: configuration of the training, whose masks have a Beta as their ratio.
        laws: a and b of each Beta.
        options: more for `mmmask fit`, e.g. [--trainer.max_steps=300].
        rounds: how often laws and strategy are searched in turn.
    """

    def __init__(self, config: Path, laws: Sequence[Law], options: Sequence[str] = (), rounds: int = 2) -> None:
        if not laws or rounds < 1:
            raise UserError("ShortTrainings: give one law at least, and 1 round or more.")
        self.config, self.laws = config, [(float(a), float(b)) for a, b in laws]
        self.options, self.rounds = list(options), rounds

    def best(self, folder: Path, worth: Callable[[Path], float]) -> tuple[Law, Path]:
        """The best law and the run that was trained with it; what was judged before is not trained again."""
        note = folder / "laws.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        known = {tuple(json.loads(line)["law"]): json.loads(line)["value"] for line in _lines(note)}
        for law in self.laws:
            run = folder / _name(law)
            if law not in known:
                self._train(law, run)
                known[law] = worth(run)
                with open(note, "a") as stream:
                    stream.write(json.dumps({"law": law, "value": known[law]}) + "\n")
            print(f"masks by Beta{law}: {known[law]:.4g}")
        best = min(self.laws, key=lambda law: known[law])
        return best, folder / _name(best)

    def _train(self, law: Law, run: Path) -> None:
        ratio = "--model.init_args.masks.init_args.ratio.init_args"
        command = [sys.executable, "-m", "mmmask.cli", "fit", "--config", str(self.config)]
        command += [f"{ratio}.a={law[0]}", f"{ratio}.b={law[1]}", "--trainer.default_root_dir", str(run)]
        log = run.with_suffix(".log")
        with open(log, "w") as stream:
            code = subprocess.run([*command, *self.options], stdout=stream, stderr=subprocess.STDOUT).returncode
        if code:
            last = log.read_text().strip().splitlines()[-1:]
            raise UserError(f"the training with Beta{law} ended with code {code}; {log} says: {' '.join(last)}")


def _lines(path: Path) -> list[str]:
    """Whole lines: a kill can cut the last."""
    text = path.read_text() if path.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def _name(law: Law) -> str:
    return f"beta-{law[0]:g}-{law[1]:g}"
