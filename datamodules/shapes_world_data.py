"""`ShapesWorldData`: the built-in scenes as a data module; drawn once, kept as shards in the user's cache."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from datamodules.index import cache_folder
from datamodules.pack import pack
from datamodules.readers import Reader
from datamodules.shard_data import ShardData


def shapes_world_folder(size: int, train: int, test: int, seed: int) -> Path:
    """Where these scenes are kept."""
    return cache_folder() / f"shapes-world-{size}px-{train}-{test}-seed{seed}"


def ensure_shapes_world(size: int = 32, train: int = 10_000, test: int = 1_000, seed: int = 0) -> Path:
    """The folder that holds these scenes as shards; draws them if they are not there."""
    from datamodules.shapes_world import ShapesWorld

    folder = shapes_world_folder(size, train, test, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # a second run waits for the first one's scenes
        for split, count in (("train", train), ("test", test)):
            if not list(folder.glob(f"{split}-*.tar")):
                pack(ShapesWorld(size=size, seed=seed, split=split).samples(count), folder, split)
    return folder


class ShapesWorldData(ShardData):
    """ShapesWorld scenes: give the modalities wanted and, if need be, their number and size.

    Args:
        modalities: batch name -> reader; fields are rgb.png, segmentation.png, depth.png, edges.png,
            boxes.npy, txt, cls.
        size: side of the pictures in pixels.
        train_samples: scenes to train on.
        test_samples: scenes to validate and test on.
        world_seed: decides the scenes (`seed` only their order).
    """

    def __init__(
        self,
        modalities: dict[str, Reader],
        size: int = 32,
        train_samples: int = 10_000,
        test_samples: int = 1_000,
        world_seed: int = 0,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        self.world = {"size": size, "train": train_samples, "test": test_samples, "seed": world_seed}
        folder = shapes_world_folder(**self.world)
        super().__init__(
            train=str(folder / "train-*.tar"),
            val=str(folder / "test-*.tar"),
            modalities=modalities,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
        )

    def prepare_data(self) -> None:
        """Draw the scenes if they are not in the cache."""
        ensure_shapes_world(**self.world)
