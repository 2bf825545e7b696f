"""How a training begins: with the backbone of another one, whatever that was for (`init_from`), or with words that are
codes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from lightning.pytorch import LightningModule

from mmmask.files import written_whole
from mmmask.pretrained.transfer import backbone_of, transfer
from mmmask.tokenizers.codec import Codec
from mmmask.transformer import MaskedTransformer, PlacedEmbedding
from tasks.finished import model_of


def begin_from(task: LightningModule, backbone: MaskedTransformer, path: Path | None, stage: str) -> None:
    """To be called in `setup`: fill `backbone` from a run folder or an exported model. What came over is printed, and
    told weight by weight by init_from.txt in the run folder. A run that is resumed has no `init_from` any more."""
    trainer = task.trainer
    if path is None or stage != "fit":
        return
    report = transfer(backbone, backbone_of(model_of(path), path))
    folder = Path(trainer.log_dir or trainer.default_root_dir)  # all ranks must ask
    if not trainer.is_global_zero:
        return
    folder.mkdir(parents=True, exist_ok=True)
    with written_whole(folder / "init_from.txt") as stream:
        stream.write(f"{path}: {report}\n".encode())
    print(f"{path}: {report.summary()} (each weight: {folder / 'init_from.txt'})")


@torch.no_grad()
def begin_as_codes(backbone: MaskedTransformer, codecs: Mapping[str, Codec]) -> None:
    """Words and answers become the codes of their codecs, turned at random: what decodes alike is read and answered
    alike from the start."""
    embedding = cast(PlacedEmbedding, backbone.embedding)
    for name, codec in codecs.items():
        if (codes := codec.codes()) is None:
            continue
        alike = ~codes.isnan().any(1)
        codes = codes[alike]
        codes = (codes - codes.mean(0)) / codes.std()
        for table in (embedding.table(name), embedding.answer_table(name)):
            turn = torch.randn(codes.shape[1], table.shape[1]) / codes.shape[1] ** 0.5
            table[alike] = table.std() * (codes @ turn)
