"""`mmmask evaluate`: scores of the images that a model draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from mmmask.errors import UserError
from mmmask.files import written_whole
from mmmask.metrics import ClipScore, Extractor, ImageScores, Inception
from tasks.finished import model_of
from tasks.generating import Dtype, check_seed, chosen_device, text_vectors
from tasks.samplers import sampler_of


def extractor_of(judge: Path | None, inception: Path | None) -> Extractor:
    """The network that looks: a classifier, in a run folder or a model file, or FID's Inception."""
    if (judge is None) == (inception is None):
        raise UserError("evaluate: give either --judge, a classifier of mmmask, or --inception, FID's weights.")
    if inception is not None:
        return Inception(inception)
    assert judge is not None
    found = [part for part in model_of(judge).parts.values() if isinstance(part, Extractor)]
    if not found:
        raise UserError(f"{judge} holds no classifier.")
    return found[0]


class Evaluation:
    """A model, and the scores of what it draws: of classes in turn, or of captions."""

    def __init__(self, checkpoint: Path, extractor: Extractor, device: str = "auto", dtype: Dtype = "float32") -> None:
        self.checkpoint, self.device, self.dtype = checkpoint, chosen_device(device), dtype
        self.model = model_of(checkpoint).to(self.device)
        self.generator = self.model.part("generator", checkpoint).to(getattr(torch, dtype))
        self.tokenizer = self.model.part("tokenizer", checkpoint)
        self.scores = ImageScores(extractor.to(self.device))
        self.captions: list[str] | None = None
        self.clip: ClipScore | None = None

    def follow(self, captions: Path | None, clip: Path | None) -> None:
        """Draw these captions, one a line, and see with a CLIP whether the images fit them."""
        if (captions is None) != (self.generator.classes is not None):
            needs = "texts: give captions" if captions is None else "classes: leave captions out"
            raise UserError(f"this model follows {needs}.")
        if captions is not None:
            if not captions.is_file():
                raise UserError(f"{captions} does not exist: give a file with a caption in each line.")
            self.captions = captions.read_text().splitlines()
        if clip is not None:
            if captions is None:
                raise UserError("evaluate: a CLIP compares with captions; this model has none.")
            self.clip = ClipScore(clip)

    def add_real(self, images: Tensor) -> None:
        """Images `(B, C, H, W)` to compare with: bytes, or numbers in 0..1."""
        images = images.to(self.device)
        self.scores.add_real(images.float() / 255 if images.dtype == torch.uint8 else images)

    def run(
        self,
        n: int,
        seed: int,
        batch_size: int,
        out: Path | None,
        schedule: str | None,
        local: int | None,
        **changes: float | None,
    ) -> dict[str, Any]:
        """Draw `n` images and score them; `out` gets a line with scores and all settings."""
        if n < 2 or batch_size < 1:
            raise UserError(f"evaluate: n must be 2 or more, batch_size 1 or more; they are {n} and {batch_size}.")
        check_seed(seed)
        if out is not None and out.is_dir():
            raise UserError(f"{out} is a folder: give a file for the line of scores.")
        sampler = sampler_of(self.model, schedule, local, **changes)
        for start in track(range(0, n, batch_size), "drawing", console=Console(stderr=True), transient=True):
            numbers = range(start, min(n, start + batch_size))
            texts = [self.captions[i % len(self.captions)] for i in numbers] if self.captions else None
            classes = None if texts else torch.tensor(numbers) % self.generator.classes
            given = text_vectors(self.model, texts or ()) if classes is None else classes
            ids = sampler.sample(self.generator, given.to(self.device), [seed + i for i in numbers])
            images = self.tokenizer.decode(ids.view(-1, self.tokenizer.grid, self.tokenizer.grid)).float()
            self.scores.add_generated(images, classes)
            if self.clip is not None and texts:
                self.clip.add(images, texts)
        row = {"checkpoint": str(self.checkpoint), "n": n, "seed": seed, "sampler": sampler.settings()}
        row |= {"extractor": type(self.scores.extractor).__name__, "device": str(self.device)}
        row |= {"dtype": self.dtype, **self.scores.compute()}
        if self.clip is not None:
            row["clip_score"] = self.clip.compute()
        if out is not None:
            before = out.read_bytes() if out.exists() else b""
            out.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(out) as stream:
                stream.write(before + json.dumps(row).encode() + b"\n")
        return row
