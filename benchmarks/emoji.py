"""What an any-to-any model predicts of `emoji-aligned`, and what it finds again.

Errors are those of the mean of 256 draws, at 64 pixels, on the 387 test pairs that have both styles; retrieval is among
these, by the vectors of aligned modalities and by likelihoods. Groups: those that only samples without a pair have
(extras) are answers too, but once, where they are left out.
"""

import statistics

import torch
import torch.nn.functional as F
from draws import draws_at_once
from hog import hog, logistic_regression
from runs import SETS, call

from datamodules import Image, ShardData, Text
from mmmask.metrics import Recall
from mmmask.synthesis import log_chances, log_likelihoods
from tasks.finished import model_of

DATA = SETS / "emoji-aligned"
DRAWS, SIZE = 256, 64
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)
BASELINES = {
    "OpenMoji -> Twemoji, squared error": 0.0596,
    "text -> OpenMoji, squared error": 0.0783,
    "OpenMoji -> text, R@1": 0.078,
    "OpenMoji -> Twemoji, R@1": 0.147,
}


def trained(out, seed, *options):
    """The model of a seed, and the seconds of its training."""
    data = ["--data.train", f"{DATA}/train-*.tar", "--data.val", f"{DATA}/test-*.tar"]
    styles = {name: out / name for name in ("openmoji", "twemoji")}
    for name, folder in styles.items():
        settings = ["--config", "configs/tokenizer/emoji.yaml", "--trainer.default_root_dir", folder, *data]
        image = "--data.modalities.image.init_args"
        call(
            folder,
            "fit",
            *settings,
            "--data.missing",
            "leave out",
            f"{image}.field",
            f"{name}.png",
        )
    words = out / "words" / "words.json"
    call(words.parent, "vocabulary", f"{DATA}/train-*.tar", words, "--size", 1000, "--sentinels", 24)
    settings = ["--config", "configs/cross_modal/emoji.yaml", "--seed_everything", seed, *data]
    for name, folder in styles.items():
        settings += [f"--model.modalities.{name}.init_args.run", folder]
    settings += ["--model.modalities.text.init_args.vocabulary", words]
    folder = out / f"model-{seed}"
    seconds = call(folder, "fit", *settings, *options, "--trainer.default_root_dir", folder)
    return model_of(folder).parts["any_to_any"], seconds


def samples(part, size, have=("openmoji", "twemoji")):
    """All samples that have these styles: pictures on white in 0..1, texts, groups."""
    readers = {name: Image(f"{name}.png", size=size) for name in have}
    readers |= {"text": Text("txt"), "group": Text("json", part="group")}
    data = ShardData(f"{DATA}/train-*.tar", readers, test=f"{DATA}/{part}-*.tar", missing="leave out", batch_size=5000)
    data.setup("test")
    (batch,) = data.test_dataloader()
    return {name: value.float() / 255 if name in styles(batch) else value for name, value in batch.items()}


def styles(batch):
    return [name for name in ("openmoji", "twemoji") if name in batch]


def expected(model, given, target):
    """The mean picture of several draws of all tokens at once, scaled up."""
    mean = sum(draws_at_once(model, given, target, DRAWS)) / DRAWS
    return F.interpolate(mean, (SIZE, SIZE), mode="bilinear")


def scores(model):
    """All numbers of a model."""
    small, large = samples("test", 32), samples("test", SIZE)
    found, both = {}, {"openmoji_pixels": small["openmoji"], "text": small["text"]}
    for name, given, target in (
        ("OpenMoji -> Twemoji", ["openmoji_pixels"], "twemoji"),
        ("OpenMoji, text -> Twemoji", ["openmoji_pixels", "text"], "twemoji"),
        ("text -> Twemoji", ["text"], "twemoji"),
        ("text -> OpenMoji", ["text"], "openmoji"),
    ):
        picture = expected(model, {source: both[source] for source in given}, target)
        found[f"{name}, squared error"] = F.mse_loss(picture, large[target]).item()
    pixels = {"openmoji_pixels": small["openmoji"]}
    candidates = {"twemoji_pixels": small["twemoji"], "text": small["text"]}
    with torch.no_grad():
        vectors = model.vectors(model.known(pixels | candidates))
    for target, name in (("text", "OpenMoji -> text"), ("twemoji", "OpenMoji -> Twemoji")):
        aligned = vectors["openmoji_pixels"] @ vectors["text" if target == "text" else "twemoji_pixels"].T
        likely = log_likelihoods(model, pixels, target, small[target])
        for chances, how in ((aligned, ""), (likely, " by likelihood")):
            for top in (1, 5):
                recall = Recall(top)
                recall.update(chances)
                found[f"{name}, R@{top}{how}"] = recall.compute().item()
    for name, given in (("OpenMoji", ["openmoji_pixels"]), ("OpenMoji, text", list(both)), ("text", ["text"])):
        chances = log_chances(model, {source: both[source] for source in given}, "group")[:, 0]
        found |= groups(name, chances, model.codec("group").names, small["group"])
    return found | surprises(model, both, small["twemoji"])


def groups(name, chances, names, truth):
    """The share of samples whose likeliest group is right: of all groups, and of those that pairs have."""
    paired = set(samples("train", 32)["group"])
    of_pairs = torch.tensor([group in paired for group in names])
    found = {}
    for among, some in (("", chances), (" among those of pairs", chances.masked_fill(~of_pairs, -torch.inf))):
        right = [names[best] == group for best, group in zip(some.argmax(1).tolist(), truth, strict=True)]
        found[f"{name} -> group{among}, accuracy"] = statistics.mean(right)
    return found


def surprises(model, both, twemoji):
    """Nats a token of Twemoji, asked all at once, when less and less is given."""
    found, length = {}, model.catalogue["twemoji"].length
    for dropped in ([], ["text"], ["openmoji_pixels"]):
        given = {name: raw for name, raw in both.items() if name not in dropped}
        likely = log_likelihoods(model, given, "twemoji", twemoji, about=False)
        found[f"Twemoji given {', '.join(given)}, nats a token"] = -likely.diagonal().mean().item() / length
    anyway = likely[:1] - log_likelihoods(model, {"text": both["text"][:1]}, "twemoji", twemoji)
    return found | {"Twemoji given nothing, nats a token": -anyway.mean().item() / length}


def baselines():
    """Those of the set, and what logistic regression on histograms of gradients makes of the group: when it learns from
    all drawings, as the model does, and when it learns from those of pairs alone, which have fewer groups."""
    found, test = dict(BASELINES), samples("test", SIZE)
    for among, have in (("", ["openmoji"]), (" among those of pairs", ["openmoji", "twemoji"])):
        train = samples("train", SIZE, have)
        names = sorted(set(train["group"]))
        labels, wanted = (torch.tensor([names.index(name) for name in part["group"]]) for part in (train, test))
        seen, asked = hog(train["openmoji"]), hog(test["openmoji"])
        answers = [logistic_regression(seen, labels, asked, decay) for decay in DECAYS]
        best = max((mine == wanted).float().mean().item() for mine in answers)  # seen on the test itself
        found[f"OpenMoji -> group{among}, accuracy"] = best
    return found
