"""The sets of pictures that generators are judged on."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import image_sets


@pytest.mark.parametrize("name", image_sets.SETS)
def test_what_is_trained_on_a_set_is_shipped(name):
    found = image_sets.SETS[name]
    configs = (found.tokenizer, *found.generators.values(), found.policy)
    assert [config for config in configs if not (image_sets.ROOT / "configs" / config).is_file()] == []


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "shape", "number", "classes"),
    [("fashion-mnist-mini", (1, 28, 28), 1000, 10), ("emoji-aligned", (3, 32, 32), 378, 9)],
)
def test_all_pictures_of_a_set_that_have_a_class_are_read(real_data, monkeypatch, name, shape, number, classes):
    monkeypatch.setattr(image_sets, "DATA", real_data(name).parent)
    images, labels = image_sets.SETS[name].pictures("test")
    assert images.shape == (number, *shape)
    assert (images.min(), images.max()) == (0, 1)
    assert labels.unique().tolist() == list(range(classes))


def test_a_judge_is_trained_once_and_then_read(tmp_path):
    torch.manual_seed(0)
    labels = torch.arange(128) % 2
    images = labels.view(-1, 1, 1, 1) * 0.5 + 0.5 * torch.rand(128, 3, 8, 8)
    trained = image_sets.judge(tmp_path / "judge.safetensors", images, labels, epochs=4)
    found = image_sets.judge(tmp_path / "judge.safetensors", images, labels, epochs=0)
    with torch.no_grad():
        assert (found(images).logits == trained(images).logits).all()
        assert (trained(images).logits.argmax(1) == labels).all()


def test_pictures_can_be_taken_with_the_classes_of_those_that_are_drawn():
    labels = torch.tensor([1, 0, 2, 1, 1])
    taken = image_sets.evenly(labels)
    assert labels[taken].tolist() == [i % 3 for i in range(image_sets.IMAGES)]
    assert taken[:12].tolist() == [1, 0, 2, 1, 3, 2, 1, 4, 2, 1, 0, 2]
