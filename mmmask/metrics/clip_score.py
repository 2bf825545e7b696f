"""How well images fit their captions, in the eyes of CLIP (Hessel et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmmask.pretrained.folders import reading


class ClipScore:
    """100 times the mean cosine of image and caption, none counted below 0; by the CLIP in a folder.

    (torchmetrics has it for models of a fixed list of names; this one is for what lies on disk.)
    """

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPModel, CLIPProcessor  # slow to import

        with reading(folder, "CLIP", ", with tokenizer and image processor"):
            self.model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
            self.processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        self._cosines: list[Tensor] = []

    @torch.no_grad()
    def add(self, images: Tensor, captions: Sequence[str]) -> None:
        """Images `(B, C, H, W)` in 0..1 and their captions."""
        bytes_ = (images.detach().cpu().expand(-1, 3, -1, -1) * 255).round().to(torch.uint8)
        length = self.model.config.text_config.max_position_embeddings
        cut = {"padding": True, "truncation": True, "max_length": length}
        seen = self.processor(text=list(captions), images=list(bytes_), return_tensors="pt", **cut)
        found = self.model(**seen.to(self.model.device))
        self._cosines.append((found.image_embeds * found.text_embeds).sum(-1).cpu())

    def compute(self) -> float:
        return 100 * torch.cat(self._cosines).clamp(min=0).mean().item()
