"""What a modality is, and the catalogue that a model knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from mmmask.errors import UserError, nearest

Kind = Literal["grid", "sequence", "set", "vector"]


@dataclass(frozen=True)
class Modality:
    """A kind of data as tokens: at most `length` of them, each one of `vocab_size` ids or a vector of `channels`.

    `sentinels` of a sequence are the words, from and up to but not including, that stand for spans left out. `patch` is
    the side of the pixels that a continuous token of a grid holds.
    """

    name: str
    length: int
    vocab_size: int | None = None
    channels: int | None = None
    kind: Kind = "grid"
    sentinels: tuple[int, int] | None = None
    patch: int | None = field(default=None, compare=False)  # another cut of what is in `channels`, no other modality

    def __post_init__(self) -> None:
        if self.sentinels is not None:  # configurations have lists
            object.__setattr__(self, "sentinels", tuple(self.sentinels))
        if (self.vocab_size is None) == (self.channels is None):
            raise UserError(
                f"modality {self.name}: give either vocab_size, for tokens with ids, or channels, for continuous ones."
            )
        if self.length < 1 or min(self.vocab_size or 1, self.channels or 1) < 1:
            raise UserError(f"modality {self.name}: length, vocab_size and channels must be 1 or more.")
        if self.kind not in Kind.__args__:  # type: ignore[attr-defined]
            raise UserError(f"modality {self.name}: kind is '{self.kind}'; choose grid, sequence, set or vector.")


class Catalogue:
    """Modalities in the order in which a model numbers them."""

    def __init__(self, modalities: Sequence[Modality]) -> None:
        self.modalities = tuple(modalities)
        self.names = [modality.name for modality in modalities]
        if len(set(self.names)) < len(self.names):
            raise UserError(f"two modalities have the same name: {', '.join(self.names)}.")

    def number(self, name: str) -> int:
        if name not in self.names:
            raise UserError(
                f"there is no modality '{name}' here, only {', '.join(self.names)}.{nearest(name, self.names)}"
            )
        return self.names.index(name)

    def __getitem__(self, name: str) -> Modality:
        return self.modalities[self.number(name)]

    def __len__(self) -> int:
        return len(self.modalities)


def entry_of(name: str, view: int) -> str:
    """Which entry of a batch holds this view of a modality; the first has its name alone."""
    return f"{name}@{view}" if view else name
