"""`mmmask evaluate`: scores of the images that a model draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from mmmask.errors import UserError
from mmmask.files import written_whole
from mmmask.metrics import Extractor, ImageScores, Inception
from mmmask.pretrained import model_files
from tasks.finished import model_of
from tasks.generating import chosen_device, sampler_of


def extractor_of(judge: Path | None, inception: Path | None) -> Extractor:
    """The network that looks: a classifier among our model files, or FID's Inception."""
    if (judge is None) == (inception is None):
        raise UserError("evaluate: give either --judge, a classifier of mmmask, or --inception, FID's weights.")
    if inception is not None:
        return Inception(inception)
    assert judge is not None
    found = [part for part in model_files.read(judge).parts.values() if isinstance(part, Extractor)]
    if not found:
        raise UserError(f"{judge} holds no classifier.")
    return found[0]


class Evaluation:
    """A model, and the scores of what it draws."""

    def __init__(self, checkpoint: Path, extractor: Extractor, device: str = "auto") -> None:
        self.checkpoint, self.model, self.device = checkpoint, model_of(checkpoint), chosen_device(device)
        self.generator = self.model.part("generator", checkpoint).to(self.device)
        self.tokenizer = self.model.part("tokenizer", checkpoint).to(self.device)
        if self.generator.classes is None:
            raise UserError("evaluate draws images of classes; this model follows texts.")
        self.scores = ImageScores(extractor.to(self.device))

    def add_real(self, images: Tensor) -> None:
        """Images `(B, C, H, W)` to compare with: bytes, or numbers in 0..1."""
        images = images.to(self.device)
        self.scores.add_real(images.float() / 255 if images.dtype == torch.uint8 else images)

    def run(self, n: int, seed: int, batch_size: int, out: Path | None, **changes: float | None) -> dict[str, Any]:
        """Draw `n` images, as many of each class; `out` gets a line with their scores and all settings."""
        sampler, spec = sampler_of(self.model, **changes)
        classes = torch.arange(n) % self.generator.classes
        batches = list(zip(classes.split(batch_size), torch.arange(seed, seed + n).split(batch_size), strict=True))
        for some, seeds in track(batches, "drawing", transient=True):
            ids = sampler.sample(self.generator, some.to(self.device), seeds)
            grids = ids.view(-1, self.tokenizer.grid, self.tokenizer.grid)
            self.scores.add_generated(self.tokenizer.decode(grids).float(), some)
        row = {"checkpoint": str(self.checkpoint), "n": n, "seed": seed, "sampler": spec, **self.scores.compute()}
        if out is not None:
            before = out.read_bytes() if out.exists() else b""
            out.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(out) as stream:
                stream.write(before + json.dumps(row).encode() + b"\n")
        return row
