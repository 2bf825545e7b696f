"""A reader of JSON: values of any form."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from datamodules.readers import Batch, Reader, json_part


class Json(Reader):
    """The value of a JSON field, or of its entry `part`: a list of them in the batch, None where there is none."""

    def __init__(self, field: str = "json", part: str | None = None) -> None:
        super().__init__(field)
        self.part = part

    def read(self, content: bytes, rng: np.random.Generator) -> Any:
        """Parse."""
        return json.loads(content) if self.part is None else json_part(content, self.part)

    def absent(self, like: Any) -> None:
        """None."""
        return

    def collate(self, values: Batch) -> list[Any]:
        """A list of values."""
        return list(values)
