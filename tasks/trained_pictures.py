"""Pictures as the words of a tokenizer that was trained here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmmask.tokenizers import Pictures
from tasks.finished import model_of


class TrainedPictures(Pictures):
    """The codec of pictures by the tokenizer of a run.

    Args:
        run: run folder of its training, or an exported model.
        source: entry of the batch that holds the pictures.
        shrink: how many times larger these may be than those that the tokenizer is for.
    """

    def __init__(self, run: Path, source: str | None = None, shrink: int = 1) -> None:
        model = model_of(Path(run))  # in a configuration it is a string
        super().__init__(model.part("tokenizer", run), source, shrink)
        self.spec = model.specs["tokenizer"]

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        settings = {"tokenizer": self.spec, "source": self.source, "shrink": self.shrink}
        return {"class_path": "mmmask.tokenizers.Pictures", "init_args": settings}
