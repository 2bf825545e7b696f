"""The colours of a picture as words, derived on the fly, as in 4M."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmmask.errors import UserError
from mmmask.tokenizers.bitmap import LUMINANCE, on_white
from mmmask.tokenizers.sequence_codec import SequenceCodec
from mmmask.tokenizers.text_vocabulary import TextVocabulary
from mmmask.tokenizers.trained_codec import present, without
from mmmask.tokenizers.typed_files import picture_in
from mmmask.tokens import Data

SIDE = 64  # of the pictures that palettes decode to
Colour = tuple[int, ...]


class Palette(SequenceCodec):
    """Pictures `(B, C, H, W)`, uint8 or in 0..1, to `v1=count v0=red v0=green v0=blue ...`: their main colours
    (k-means), from dark to bright. Decodes to pictures of stripes. A picture with a NaN is absent.

    Args:
        vocabulary: file of the words to write them in, with coordinates, as `Words` have one.
        colours: at most so many.
        levels: different values of red, green and blue.
        source: entry of the batch that holds the pictures.
    """

    words: TextVocabulary

    def __init__(
        self, vocabulary: Path | dict[str, Any], colours: int = 7, levels: int = 256, source: str | None = None
    ) -> None:
        super().__init__(source)
        if not 1 <= colours <= SIDE or not 2 <= levels <= 256:
            raise UserError(f"Palette: colours is {colours}, levels {levels}; give 1 to {SIDE}, and 2 to 256.")
        self.colours, self.levels, self.length = colours, levels, 1 + 3 * colours
        self.words = TextVocabulary(vocabulary)
        self.vocab_size, self.sentinels = self.words.size, self.words.sentinels
        self._counts = self.words.coordinates(1, colours + 1)
        self._values = self.words.coordinates(0, levels)

    def encode(self, raw: Tensor) -> Data:
        """Words of all palettes."""
        pictures = raw.float() / 255 if raw.dtype == torch.uint8 else raw.float()
        pixels = (on_white(pictures.cpu()).expand(-1, 3, -1, -1).nan_to_num(0.0).clamp(0, 1) * 255).round().byte()
        return self._data([
            self._words_of(self._palette(picture)) if there else []
            for picture, there in zip(pixels, present(raw).tolist(), strict=True)
        ])  # fmt: skip

    def _palette(self, picture: Tensor) -> list[Colour]:
        """The main colours of a picture `(3, H, W)`."""
        image = Image.fromarray(picture.permute(1, 2, 0).numpy())
        cut = image.quantize(self.colours, Image.Quantize.MEDIANCUT, kmeans=1).convert("RGB")
        colours = {colour for _, colour in cut.getcolors(SIDE * SIDE) or () if isinstance(colour, tuple)}
        return sorted(
            colours, key=lambda colour: (sum(w * part for w, part in zip(LUMINANCE, colour, strict=True)), colour)
        )

    def _words_of(self, palette: list[Colour]) -> list[int]:
        last = self.levels - 1
        return [
            self._counts[len(palette)],
            *(self._values[round(part / 255 * last)] for colour in palette for part in colour),
        ]

    def decode(self, ids: Tensor, length: Tensor) -> Tensor:
        """Pictures `(B, 3, SIDE, SIDE)`: stripes of the colours that are told whole; NaN where there are none."""
        palettes = [self._told(row[:end]) for row, end in zip(ids.tolist(), length.tolist(), strict=True)]
        pictures = torch.stack([_stripes(palette or [(0, 0, 0)]) for palette in palettes])
        return without(pictures, torch.tensor([bool(palette) for palette in palettes]))

    def _told(self, words: list[int]) -> list[Colour]:
        values = {word: round(value / (self.levels - 1) * 255) for value, word in enumerate(self._values)}
        parts = [values[word] for word in words if word in values]
        return [tuple(parts[at : at + 3]) for at in range(0, len(parts) - 2, 3)][: self.colours]

    def typed(self, text: str) -> Tensor:
        """Colours such as `#ff8800 #102030`, or the path of a picture."""
        if not text.startswith("#"):
            return picture_in(Path(text), 3)[None]
        if not re.fullmatch(r"#[0-9a-fA-F]{6}([ ,]+#[0-9a-fA-F]{6})*", text.strip()):
            raise UserError(f"Palette: '{text}' are no colours; write them as #ff8800 #102030.")
        colours = [tuple(bytes.fromhex(part)) for part in re.findall("[0-9a-fA-F]{6}", text)]
        return _stripes(colours[:SIDE])[None]


def _stripes(colours: list[Colour]) -> Tensor:
    """A picture `(3, SIDE, SIDE)` in 0..1 of these colours side by side."""
    at = torch.arange(SIDE) * len(colours) // SIDE
    return (torch.tensor(colours, dtype=torch.float32) / 255)[at].T[:, None].expand(-1, SIDE, -1)
