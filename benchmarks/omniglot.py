"""What an any-to-any model predicts of `omniglot-strokes`: ink from strokes and strokes from the picture.

Ink: the likeliest pixels of 27 x 27, as many as are likely in all, and what the model predicts in a few steps, by the
share that is right (intersection over union). Strokes: how many pixels of 105 points of one drawing lie beside those of
the other (Chamfer distance, both ways).
The baseline answers with the training sample that is nearest by what is given: pictures by their blurred pixels,
strokes by 32 points at equal distances along them.
"""

import statistics

import numpy as np
import torch
import torch.nn.functional as F
from runs import SETS, call

from datamodules import Image, Json, ShardData, Text
from mmmask.synthesis import log_chances
from tasks.finished import model_of

DATA = SETS / "omniglot-strokes"
POINTS = 32


def trained(out, seed, *options):
    """The model of a seed, and the seconds of its training."""
    folder = out / f"model-{seed}"
    data = ["--data.train", f"{DATA}/train-*.tar", "--data.val", f"{DATA}/test-*.tar"]
    settings = ["--config", "configs/cross_modal/omniglot.yaml", "--seed_everything", seed, *data]
    seconds = call(folder, "fit", *settings, *options, "--trainer.default_root_dir", folder)
    return model_of(folder).parts["any_to_any"], seconds


def samples(part):
    """All samples: pictures of 32 and of 27 pixels, drawings, alphabets."""
    readers = {"image": Image("png", 32, 1), "ink_image": Image("png", 27, 1)}
    readers |= {"strokes": Json(part="strokes"), "alphabet": Text("json", part="alphabet")}
    data = ShardData(f"{DATA}/train-*.tar", readers, test=f"{DATA}/{part}-*.tar", batch_size=5000)
    data.setup("test")
    (batch,) = data.test_dataloader()
    return batch


def along(drawing):
    """Points `(POINTS, 2)` at equal distances along all strokes."""
    paths = [np.array([point[:2] for point in stroke], dtype=float) for stroke in drawing if len(stroke)]
    if not paths:
        return np.full((POINTS, 2), 52.0)
    lengths = [np.linalg.norm(np.diff(path, axis=0), axis=1) for path in paths]
    ends = np.cumsum([0.0, *(length.sum() + 1e-3 for length in lengths)])
    found = []
    for place in np.linspace(0, ends[-1] - 1e-6, POINTS):
        number = int(np.searchsorted(ends, place, side="right")) - 1
        way = np.concatenate([[0.0], lengths[number].cumsum()])
        found.append([np.interp(place - ends[number], way, paths[number][:, axis]) for axis in (0, 1)])
    return np.array(found)


def apart(a, b):
    """Chamfer distance of two sets of points, in pixels."""
    between = np.linalg.norm(a[:, None] - b[None], axis=2)
    return (between.min(0).mean() + between.min(1).mean()) / 2


def overlap(found, truth):
    """Mean intersection over union of ink `(N, 1, H, W)`, booleans."""
    both, either = (found & truth).flatten(1).sum(1), (found | truth).flatten(1).sum(1)
    return (both / either.clamp(min=1)).mean().item()


def baselines():
    """What the nearest training sample answers."""
    train, test = samples("train"), samples("test")
    paths, theirs = (np.stack([along(drawing) for drawing in part["strokes"]]) for part in (train, test))
    seen, given = (F.avg_pool2d(part["image"].float(), 4).flatten(1) for part in (train, test))
    nearest = {
        "strokes": torch.from_numpy(np.linalg.norm(theirs[:, None] - paths[None], axis=(2, 3)).argmin(1)),
        "picture": torch.cdist(given, seen).argmin(1),
    }
    apart_from = [apart(paths[mine], truth) for mine, truth in zip(nearest["picture"].tolist(), theirs, strict=True)]
    found = {
        "strokes -> ink, overlap": overlap(train["ink_image"][nearest["strokes"]] < 128, test["ink_image"] < 128),
        "picture -> strokes, pixels apart": statistics.mean(apart_from),
    }
    for name, index in nearest.items():
        answers = [train["alphabet"][mine] for mine in index.tolist()]
        found[f"{name} -> alphabet, accuracy"] = share(answers, test["alphabet"])
    return found


def share(found, truth):
    """How many are right."""
    return statistics.mean(mine == theirs for mine, theirs in zip(found, truth, strict=True))


def likeliest(model, drawings):
    """The pixels `(N, 1, H, W)` that are most likely inked where the pen went so, as many as are inked on average."""
    codec = model.codec("ink")
    bits = log_chances(model, {"strokes": drawings}, "ink").exp() @ codec.codes()  # (N, cells, pixels of a cell)
    chances = F.fold(bits.transpose(1, 2), codec.size, codec.cell, stride=codec.cell)
    ranks = chances.flatten(1).argsort(1, descending=True).argsort(1).view_as(chances)
    return ranks < chances.sum((1, 2, 3), keepdim=True).round()


def scores(model):
    """All numbers of a model."""
    test = samples("test")
    given = {"strokes": test["strokes"]}
    ink = model.codec("ink").bits(test["ink_image"])[:, None].bool()
    truth = [along(drawing) for drawing in test["strokes"]]
    drawn = model.predict({"pixels": test["image"]}, ["strokes"])["strokes"]
    distances = [apart(along(mine), theirs) for mine, theirs in zip(drawn, truth, strict=True)]
    result = {
        "strokes -> ink, overlap": overlap(likeliest(model, test["strokes"]), ink),
        "strokes -> ink, overlap of predictions": overlap(model.predict(given, ["ink"])["ink"] < 0.5, ink),
        "picture -> strokes, pixels apart": statistics.mean(distances),
    }
    for name, source in (("strokes", given), ("picture", {"pixels": test["image"]})):
        result[f"{name} -> alphabet, accuracy"] = share(
            model.predict(source, ["alphabet"])["alphabet"], test["alphabet"]
        )
    return result
