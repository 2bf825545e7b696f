"""What happened in each step of a decoding, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmmask.flops import counting
from mmmask.report.figures import BLUE, GREY, panels
from mmmask.synthesis import Decoded
from mmmask.tokens import BLANK

SETTINGS = ("masked", "temperature", "remask", "guidance")


class Trace:
    """Of B samples and S steps: tokens revealed, how sure the model was of them, settings, passes and FLOPs."""

    def __init__(self) -> None:
        self.revealed: list[Tensor] = []  # S of (B,)
        self.confidence: list[Tensor] = []  # S of (B,): mean probability of the words revealed; NaN if none was
        self.settings: list[dict[str, Tensor]] = []  # S of (B,) each
        self.evaluations: list[int] = []  # S: so far
        self.few: list[int] = []  # S: so far, passes of a few tokens alone
        self.gflop: list[float] = []  # S: of all samples in this step

    def of(self, steps: Iterator[Decoded], ids: Tensor) -> Iterator[Decoded]:
        """The same steps, from `ids` `(B, L)` on, watched."""
        while True:
            with counting() as counter:
                decoded = next(steps, None)
            if decoded is None:
                return
            self._note(decoded, ids, counter.get_total_flops() / 1e9)
            ids = decoded.ids
            yield decoded

    def record(self) -> dict[str, object]:
        """Means over the samples, for each step."""
        n = len(self.revealed[0])
        return {
            "revealed": [step.float().mean().item() for step in self.revealed],
            "confidence": [step.nanmean().item() for step in self.confidence],
            **{name: [step[name].mean().item() if step else None for step in self.settings] for name in SETTINGS},
            "evaluations": [count / n for count in self.evaluations],
            "passes_of_a_few": [count / n for count in self.few],
            "gflop": [cost / n for cost in self.gflop],
        }

    def draw(self, path: Path) -> None:
        """Panels over the steps: tokens, confidence, the settings, cost; a grey line for each of the samples."""
        steps = np.arange(1, len(self.revealed) + 1)
        columns = {
            "tokens revealed": torch.stack(self.revealed).float(),
            "confidence": torch.stack(self.confidence),
            **{name: self._column(name) for name in SETTINGS},
            "GFLOP an image": torch.tensor(self.gflop)[:, None] / len(self.revealed[0]),
        }
        with panels(path, [2.7] * len(columns), 2.8) as axes:
            for axis, (name, values) in zip(axes, columns.items(), strict=True):
                if values.shape[1] > 1 and values.nan_to_num().std(1).max() > 0:
                    axis.plot(steps, values[:, :40], color=GREY, linewidth=0.6)
                axis.plot(steps, values.nanmean(1), "o-", color=BLUE)
                axis.set(title=name, xlabel="step", ylim=(0, None), xticks=steps if len(steps) < 13 else None)

    def _column(self, name: str) -> Tensor:
        n = len(self.revealed[0])
        return torch.stack([step[name] if step else torch.full((n,), torch.nan) for step in self.settings])

    def _note(self, decoded: Decoded, before: Tensor, gflop: float) -> None:
        new = (decoded.ids != BLANK) & (before == BLANK)
        sure = torch.full(new.shape, torch.nan, device=new.device)
        if decoded.places is not None and decoded.chances is not None:
            sure = sure.scatter(1, decoded.places, decoded.chances.float().exp())
        self.revealed.append(new.sum(1).cpu())
        self.confidence.append(sure.masked_fill(~new, torch.nan).nanmean(1).cpu())
        step, like = decoded.step, torch.zeros(len(new))
        known = {} if step is None else {name: like + torch.as_tensor(getattr(step, name)).cpu() for name in SETTINGS}
        self.settings.append(known)
        self.evaluations.append(decoded.evaluations)
        self.few.append(decoded.few)
        self.gflop.append(gflop)
