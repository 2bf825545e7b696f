"""Small shards of six kinds of things, with pictures and texts, and few labels: what discovery is tried on."""

import csv
import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from datamodules.pack import pack
from mmmask.discovery import BackboneEncoder
from mmmask.discovery.encoders import Seen
from mmmask.modalities import Modality
from mmmask.tokenizers.codec import Codec
from mmmask.transformer import MaskedTransformer


class TurnedEncoder(BackboneEncoder):
    """An encoder of a user's own: it turns what the backbone sees, by weights and a setting of its own."""

    def __init__(
        self,
        modalities: dict[str, Codec],
        backbone: Callable[[Sequence[Modality]], MaskedTransformer] | MaskedTransformer,
        times: float = 1.0,
    ):
        super().__init__(modalities, backbone)
        self.times = times
        self.turn = torch.nn.Linear(self.backbone.encoder.dim, self.backbone.encoder.dim)

    def forward(self, read):
        return {name: Seen(self.times * self.turn(x), there) for name, (x, there) in super().forward(read).items()}


class UntypedEncoder(BackboneEncoder):
    """One that no configuration can make."""

    def __init__(self, modalities, backbone):
        super().__init__(modalities, backbone)


KINDS = ["red shoe", "blue hat", "green mug", "black belt", "white sock", "brown bag"]
FILLERS = ["classic", "sport", "summer", "winter", "soft", "large"]


def picture(kind, rng):
    """A drawing: kinds have stripes of their own direction."""
    image = Image.new("RGB", (40, 40), "white")
    angle = kind * np.pi / len(KINDS)
    for shift in range(-40, 41, 8):
        x, y = 20 - np.sin(angle) * shift + rng.integers(-1, 2), 20 + np.cos(angle) * shift
        dx, dy = 40 * np.cos(angle), 40 * np.sin(angle)
        ImageDraw.Draw(image).line((x - dx, y - dy, x + dx, y + dy), fill="black", width=2)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def write_small_shards(folder, count=120, seed=0, kinds=KINDS, start=0, text=None):
    """Samples `k000...`, in turn of each kind; returns the true kind of each key."""
    rng = np.random.default_rng(seed)
    truth, records = {}, []
    for n in range(start, start + count):
        kind = n % len(kinds)
        key = f"k{n:04d}"
        words = f"{rng.choice(FILLERS)} {kinds[kind]} {rng.choice(FILLERS)}"
        said = words if text is None else text(n, words)
        records.append({"__key__": key, "txt": said.encode(), "png": picture(kind, rng), "cls": str(kind).encode()})
        truth[key] = kinds[kind]
    pack(records, folder)
    return truth


def write_labels(path, truth, known=3, each=8):
    """Label `each` samples of the first `known` kinds."""
    kinds = list(dict.fromkeys(truth.values()))[:known]
    with open(path, "w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["key", "category"])
        for kind in kinds:
            table.writerows([key, kind] for key in [key for key, own in truth.items() if own == kind][:each])
    return path


def rows_of(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))
