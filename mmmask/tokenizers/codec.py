"""What turns the raw data of a modality into tokens, and tokens into data again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmmask.errors import UserError, nearest
from mmmask.modalities import Modality
from mmmask.tokens import Data


class Codec(nn.Module, ABC):
    """Raw data of a modality, as a batch holds it, to tokens and back; learns nothing.

    `source` is the entry of the batch that holds the data (default: the name of the modality), so that several
    modalities can be made of one.
    """

    def __init__(self, source: str | None = None) -> None:
        super().__init__()
        self.source = source

    @abstractmethod
    def modality(self, name: str) -> Modality:
        """What its tokens are, under the name that the configuration gives them."""

    @abstractmethod
    def encode(self, raw: Any) -> Data:
        """Tokens of all samples of a batch."""

    @abstractmethod
    def decode(self, ids: Tensor, length: Tensor) -> Any:
        """What ids `(B, L)` stand for, of which the first `length` `(B,)` are meant: as a batch holds it."""

    def typed(self, text: str) -> Any:
        """A batch of one, of what a person types: the data itself, or the path of a file that holds it."""
        raise UserError(f"{type(self).__name__}: its data cannot be typed, nor read from a file; use Python.")

    def codes(self) -> Tensor | None:
        """A vector for each word `(V, C)`, close for those that decode alike; NaN for words that are like no other."""
        return None

    def entry(self, name: str) -> str:
        """Which entry of a batch holds the data of the modality that has this name."""
        return self.source or name

    def seen(self, raw: Any) -> Tensor | Sequence[str]:
        """What a person is shown of raw data: pictures `(B, C, H, W)` in 0..1, or texts."""
        return raw if isinstance(raw, Tensor) else [str(sample) for sample in raw]

    def portable(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration that it was made of, without what is found on this machine alone."""
        return dict(spec)


def data_of(
    codecs: Mapping[str, Codec], batch: Mapping[str, Any], names: Sequence[str] | None = None
) -> dict[str, Data]:
    """Tokens of what a batch holds of these modalities (default: all). What is not `present` has length 0."""
    found, present = {}, batch.get("present", {})
    for name in names if names is not None else codecs:
        source = codecs[name].entry(name)
        if source not in batch:
            raise UserError(f"the batch has no '{source}' for modality {name}.{nearest(source, batch)}")
        data = codecs[name].encode(batch[source])
        if source in present:
            data = data._replace(length=data.length * present[source].cpu().numpy())
        found[name] = data
    return found
