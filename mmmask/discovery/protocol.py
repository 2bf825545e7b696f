"""Protocols of category discovery: which classes are old, which samples are labelled; as a file that others repeat."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mmmask.errors import UserError
from mmmask.files import written_whole


@dataclass(frozen=True)
class Protocol:
    """Training knows the classes of the `labelled` samples, by key, and nothing of any other label.

    `old` and `new` are classes as the data number them; `keys` is the digest of the keys of all training samples,
    `seed` what the labelled were drawn with (None: they were given), and `names` are those of the old classes, if they
    have any.
    """

    old: tuple[int, ...]
    new: tuple[int, ...]
    labelled: Mapping[str, int]
    keys: str
    seed: int | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.labelled:
            raise UserError("the protocol labels no sample: then there is nothing to learn from; cluster with KMeans.")
        given = Counter(self.labelled.values())
        if strange := sorted(set(given) - set(self.old)):
            raise UserError(f"the protocol labels samples of class {strange[0]}, which is not one of the old classes.")
        if self.names is not None and len(self.names) != len(self.old):
            raise UserError(f"the protocol has {len(self.names)} names for {len(self.old)} old classes.")
        if both := sorted(set(self.old) & set(self.new)):
            raise UserError(f"the protocol calls class {both[0]} old and new.")
        for label in self.old:
            if given[label] < 2:
                raise UserError(
                    f"the protocol labels {given[label]} samples of the old class {label}: label two or more, "
                    "or call it new."
                )

    @classmethod
    def drawn(
        cls, classes: Mapping[str, int], old: Collection[int] | None = None, share: float = 0.5, seed: int = 0
    ) -> Protocol:
        """A `share` of the samples of each old class is labelled; `classes` of all samples by key (-1: none).

        Half of the classes, the larger one, are old, drawn too, where it is not said which.
        """
        if not 0 < share < 1:
            raise UserError(f"protocol: the share of labelled samples is above 0 and below 1; it is {share}.")
        draw, known = np.random.default_rng(seed), sorted(set(classes.values()) - {-1})
        if old is None:
            old = draw.permutation(known)[: (len(known) + 1) // 2].tolist()
        elif missing := sorted(set(old) - set(known)):
            raise UserError(f"protocol: no sample is of the old class {missing[0]}.")
        labelled: dict[str, int] = {}
        for label in sorted(old):
            own = sorted(key for key, its in classes.items() if its == label)
            labelled |= dict.fromkeys(draw.permutation(own)[: round(share * len(own))].tolist(), label)
        new = tuple(sorted(set(known) - set(old)))
        return cls(tuple(sorted(old)), new, labelled, digest_of(classes), seed)

    @classmethod
    def given(cls, classes: Mapping[str, int], labelled: Collection[str]) -> Protocol:
        """The protocol that labels these keys; old are the classes that they are of."""
        known = {key: classes[key] for key in labelled}
        old = set(known.values())
        return cls(tuple(sorted(old)), tuple(sorted(set(classes.values()) - old - {-1})), known, digest_of(classes))

    @classmethod
    def named(cls, labelled: Mapping[str, str], keys: Collection[str]) -> Protocol:
        """The protocol that labels these keys, of all `keys`, with names; which new classes there are nobody knows."""
        counts = Counter(labelled.values())
        if alone := sorted(name for name, count in counts.items() if count < 2):
            raise UserError(f"the table labels 1 sample of '{alone[0]}': label two or more, or leave it out.")
        number = {name: n for n, name in enumerate(sorted(counts))}
        known = {key: number[name] for key, name in labelled.items()}
        return cls(tuple(number.values()), (), known, digest_of(keys), names=tuple(number))

    @classmethod
    def read(cls, path: Path) -> Protocol:
        """From a file."""
        try:
            found = json.loads(Path(path).read_text(encoding="utf-8"))
            names = None if found.get("names") is None else tuple(found["names"])
            return cls(**{**found, "old": tuple(found["old"]), "new": tuple(found["new"]), "names": names})
        except OSError as error:
            raise UserError(
                f"cannot read the protocol {path}: {error.strerror}. `mmmask protocol` makes one."
            ) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path} is no protocol ({error}). `mmmask protocol` makes one.") from error

    def write(self, path: Path) -> None:
        """As JSON, keys in order: equal protocols are equal files."""
        content = asdict(self) | {"labelled": dict(sorted(self.labelled.items()))}
        with written_whole(path) as stream:
            stream.write(json.dumps(content, indent=1).encode())

    def check(self, keys: Collection[str], name: str = "the protocol") -> None:
        """Refuse what is not the protocol of these training samples."""
        if unknown := sorted(set(self.labelled) - set(keys)):
            raise UserError(
                f"{name} labels {len(unknown)} samples that are not there, first '{unknown[0]}': give the shards "
                "that it was made for."
            )
        if len(self.labelled) == len(set(keys)):
            raise UserError(f"{name} labels all samples: nothing is left to discover.")
        if digest_of(keys) != self.keys:
            raise UserError(
                f"{name} was made for other training samples than these {len(keys)}: make it again for them."
            )

    def called(self) -> dict[str, str]:
        """The name of its class, or its number, of each labelled key."""
        names = dict(zip(self.old, self.names or map(str, self.old), strict=True))
        return {key: names[label] for key, label in self.labelled.items()}

    def numbers(self) -> dict[str, int]:
        """The place of its class among the old, of each labelled key."""
        places = {label: place for place, label in enumerate(self.old)}
        return {key: places[label] for key, label in self.labelled.items()}


def digest_of(keys: Iterable[str]) -> str:
    """What tells a list of keys, in any order, from all others."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:16]
