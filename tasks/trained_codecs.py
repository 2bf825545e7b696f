"""Pictures and vectors as the words of a tokenizer that was trained here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmmask.errors import UserError
from mmmask.pretrained.model_files import Spec
from mmmask.tokenizers import ImageTokenizer, Pictures, Tokenizer, Vectors, VectorTokenizer
from tasks.finished import model_of


class TrainedPictures(Pictures):
    """The codec of pictures by the tokenizer of a run.

    Args:
        run: run folder of its training, or an exported model.
        source: entry of the batch that holds the pictures.
        shrink: how many times larger these may be than those that the tokenizer is for.
    """

    def __init__(self, run: Path, source: str | None = None, shrink: int = 1) -> None:
        tokenizer, spec = _tokenizer(run)
        if not isinstance(tokenizer, ImageTokenizer):
            raise UserError(f"TrainedPictures: {run} is no tokenizer of pictures, but of vectors: take TrainedVectors.")
        super().__init__(tokenizer, source, shrink)
        self.spec = spec

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        settings = {"tokenizer": self.spec, "source": self.source, "shrink": self.shrink}
        return {"class_path": "mmmask.tokenizers.Pictures", "init_args": settings}


class TrainedVectors(Vectors):
    """The codec of vectors by the tokenizer of a run.

    Args:
        run: run folder of its training, or an exported model.
        source: entry of the batch that holds the vectors.
    """

    def __init__(self, run: Path, source: str | None = None) -> None:
        tokenizer, spec = _tokenizer(run)
        if not isinstance(tokenizer, VectorTokenizer):
            raise UserError(f"TrainedVectors: {run} is no tokenizer of vectors, but of pictures: take TrainedPictures.")
        super().__init__(tokenizer, source)
        self.spec = spec

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        return {"class_path": "mmmask.tokenizers.Vectors", "init_args": {"tokenizer": self.spec, "source": self.source}}


def _tokenizer(run: Path) -> tuple[Tokenizer, Spec]:
    """That of a run, and how it is made."""
    model = model_of(Path(run))  # in a configuration it is a string
    return model.part("tokenizer", run), model.specs["tokenizer"]
