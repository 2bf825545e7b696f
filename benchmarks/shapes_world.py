"""What an any-to-any model tells of drawn scenes (ShapesWorld): depth, segmentation, boxes and captions.

Each score is 1 if all is right; the attainable one is that of the true scenes through the tokenizers. Depth: share of
its variance that is explained. Segmentation: mean IoU of the wall and five shapes. Boxes: F1 at an IoU of 0.5, of the
right class. Caption: 1 less the word error rate. Of 500 scenes; maps are the mean, or the majority, of 16 draws of all
tokens at once, boxes and captions the likeliest words.
"""

import torch
import torch.nn.functional as F
from draws import draws_at_once
from runs import call
from torchmetrics.classification import MulticlassJaccardIndex
from torchmetrics.text import WordErrorRate
from torchvision.ops import box_iou

from datamodules import Array, Image, ShapesWorldData, Text
from datamodules.shapes_world_data import ensure_shapes_world
from mmmask.synthesis import Autoregressive
from tasks.finished import model_of

TRAIN, TEST, DRAWS = 20_000, 500, 16
WANTED = ("depth", "segmentation", "boxes", "text")
AIM, CLASSES = 0.95, 6


def trained(out, seed, *options):
    """The model of a seed, and the seconds of its training."""
    words, data = out / "words" / "words.json", ["--data.train_samples", TRAIN, "--data.test_samples", TEST]
    settings = ["--config", "configs/cross_modal/shapes_world.yaml", "--seed_everything", seed, *data]
    for name in ("depth", "segmentation"):
        config = f"configs/tokenizer/shapes_{name}.yaml"
        call(out / name, "fit", "--config", config, *data, "--trainer.default_root_dir", out / name)
        settings += [f"--model.modalities.{name}.init_args.run", out / name]
    scenes = ensure_shapes_world(32, TRAIN, TEST)
    call(words.parent, "vocabulary", f"{scenes}/train-*.tar", words, "--size", 140, "--sentinels", 16)
    settings += ["--model.modalities.text.init_args.vocabulary", words]
    folder = out / f"model-{seed}"
    seconds = call(folder, "fit", *settings, *options, "--trainer.default_root_dir", folder)
    return model_of(folder).parts["any_to_any"], seconds


def baselines():
    """What a model is to reach of what is attainable."""
    return {f"pixels -> {name}, of the attainable": AIM for name in WANTED}


def samples():
    """The test scenes."""
    maps = {name: Image(f"{name}.png", 32, 1, crop="none") for name in ("depth", "segmentation")}
    readers = maps | {"rgb": Image("rgb.png", 32, crop="none"), "boxes": Array("boxes.npy"), "text": Text()}
    data = ShapesWorldData(readers, train_samples=TRAIN, test_samples=TEST, batch_size=TEST)
    data.prepare_data()
    data.setup("test")
    (batch,) = data.test_dataloader()
    return batch


def scores(model):
    """All numbers of a model."""
    truth = samples()
    pixels = {"pixels": truth["rgb"]}
    model.decoders |= {name: Autoregressive(temperature=0.0) for name in ("boxes", "text")}
    predicted = {name: model.predict(pixels, [name])[name] for name in ("boxes", "text")}
    predicted["depth"] = sum(draws_at_once(model, pixels, "depth", DRAWS)) / DRAWS
    votes = sum(F.one_hot(classes.long(), CLASSES) for classes in draws_at_once(model, pixels, "segmentation", DRAWS))
    predicted["segmentation"] = votes.argmax(-1)
    found = {}
    for name in WANTED:
        data = model.read(truth, [name])[name]
        kept = model.codec(name).decode(torch.from_numpy(data.ids), torch.from_numpy(data.length))
        score, attainable = (RIGHT[name](some, truth[name]) for some in (predicted[name], kept))
        found |= {f"pixels -> {name}": score, f"{name}, attainable": attainable}
        found[f"pixels -> {name}, of the attainable"] = score / attainable
    exact = [mine == theirs for mine, theirs in zip(predicted["text"], truth["text"], strict=True)]
    return found | {"captions without a mistake": sum(exact) / len(exact)}


def explained(found, truth):
    """Share of the variance of depth."""
    truth = truth.float() / 255
    return 1 - ((found - truth).square().mean() / truth.var()).item()


def overlap(found, truth):
    return MulticlassJaccardIndex(CLASSES)(found.flatten(), truth.flatten()).item()


def boxes_found(found, truth):
    """F1: a box is right if one of its class, which no other box has, overlaps it by half."""
    right = total = 0
    for mine, theirs in zip(found, truth, strict=True):
        mine, theirs = mine[mine[:, 0] >= 0], theirs[theirs[:, 0] >= 0]
        total += len(mine) + len(theirs)
        close = box_iou(mine[:, 1:].float(), theirs[:, 1:].float()) * (mine[:, :1] == theirs[:, 0])
        while close.numel() and close.max() >= 0.5:
            one, other = divmod(int(close.argmax()), close.shape[1])
            close[one], close[:, other] = 0, 0
            right += 2
    return right / total


def words_right(found, truth):
    return 1 - WordErrorRate()(list(found), list(truth)).item()


RIGHT = {"depth": explained, "segmentation": overlap, "boxes": boxes_found, "text": words_right}
