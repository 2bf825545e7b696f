"""ShapesWorldData: the built-in scenes as a data module."""

from contextlib import suppress

import torch

from datamodules import Array, Image, Label, ShapesWorldData, ShardSet, Text
from datamodules.shapes_world import ShapesWorld
from datamodules.shapes_world_data import ensure_shapes_world, shapes_world_folder

MODALITIES = {
    "rgb": Image("rgb.png", 32, crop="none"),
    "segmentation": Image("segmentation.png", 32, channels=1, crop="none"),
    "boxes": Array("boxes.npy"),
    "caption": Text(),
    "label": Label(),
}


def world(**options):
    data = ShapesWorldData(MODALITIES, train_samples=40, test_samples=10, batch_size=8, **options)
    data.prepare_data()
    return data


def test_batches_hold_the_drawn_scenes():
    scenes = ShapesWorld(size=32, seed=3, split="test").scenes(range(8))
    batch = next(iter(world(world_seed=3).val_dataloader()))
    assert (batch["rgb"] == torch.from_numpy(scenes.rgb).permute(0, 3, 1, 2)).all()
    assert (batch["segmentation"][:, 0] == torch.from_numpy(scenes.segmentation)).all()
    assert all(caption for caption in batch["caption"])


def test_training_and_test_scenes_differ_and_have_the_numbers_asked_for():
    data = world()
    train = {batch["rgb"][i].numpy().tobytes() for batch in data.train_dataloader() for i in range(len(batch["key"]))}
    test = {batch["rgb"][i].numpy().tobytes() for batch in data.test_dataloader() for i in range(len(batch["key"]))}
    assert (len(train), len(test)) == (40, 10)
    assert not train & test


def test_scenes_are_drawn_once(monkeypatch):
    folder = ensure_shapes_world(32, 40, 10, 7)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr(ShapesWorld, "samples", lambda self, count: 1 / 0)
    assert ensure_shapes_world(32, 40, 10, 7) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_other_worlds_are_kept_apart():
    places = {shapes_world_folder(*world) for world in [(32, 4, 2, 0), (16, 4, 2, 0), (32, 5, 2, 0), (32, 4, 2, 1)]}
    assert len(places) == 4


def test_an_interrupted_drawing_is_taken_up_again(monkeypatch):
    drawn = list(ShapesWorld(size=32).samples(3))

    def interrupted(self, count):
        yield from drawn
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ShapesWorld, "samples", interrupted)
        with suppress(KeyboardInterrupt):
            ensure_shapes_world(32, 20, 5, 9)
    assert not list(shapes_world_folder(32, 20, 5, 9).glob("*.tar"))
    assert len(ShardSet(str(ensure_shapes_world(32, 20, 5, 9)))) == 25
