"""`init_from`: a training begins with the backbone of another one, whatever that was for."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule

from mmmask.files import written_whole
from mmmask.pretrained.transfer import backbone_of, transfer
from mmmask.transformer import MaskedTransformer
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
