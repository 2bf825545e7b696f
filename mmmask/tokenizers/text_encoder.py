"""Texts to vectors: the text tower of CLIP, from a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmmask.pretrained.folders import reading


class TextEncoder(nn.Module):
    """Captions to one vector for each of 77 tokens: `(B, 77, channels)`, by CLIP's last layer.

    `folder` is what `save_pretrained` of transformers, or a download of the Hub, puts there: model and tokenizer.
    The network is frozen and no part of checkpoints.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import AutoTokenizer, CLIPTextModel  # slow to import

        with reading(folder, "text model of CLIP", ", with its tokenizer"):
            net = CLIPTextModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
            self.words: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.__dict__["net"] = net.eval().requires_grad_(False)
        self.length, self.channels = net.config.max_position_embeddings, net.config.hidden_size

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor:
        net = self.__dict__["net"]
        words = self.words(
            list(texts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )
        return net(**words.to(net.device)).last_hidden_state.float()

    def to(self, *args: Any, **kwargs: Any) -> TextEncoder:
        self.__dict__["net"].to(*args, **kwargs)
        return super().to(*args, **kwargs)
