"""What the benchmarks of image synthesis share: sets of pictures, their judge, training, scores, rows of a table."""

import copy
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from runs import ROOT, call
from runs import SETS as DATA

from datamodules import Image, Label, ShardData
from mmmask.flops import counting
from mmmask.metrics import Classifier, ImageScores
from mmmask.pretrained.model_files import Model, read, write

READERS = {"Image": Image, "Label": Label}
IMAGES = 1000  # to draw


@dataclass(frozen=True)
class ImageSet:
    """Pictures with classes, and what is trained on them: configurations, which also say how they are read."""

    name: str
    tokenizer: str
    generators: dict[str, str]  # by family
    policy: str
    judge_epochs: int
    out: Path
    precision: str = "bf16-mixed"  # of the generator while a policy learns
    images: int = 512  # that such a policy draws in a step, if it is no adversary that judges them

    @property
    def train(self):
        return f"{DATA / self.name}/train-*.tar"

    @property
    def test(self):
        return f"{DATA / self.name}/test-*.tar"

    def pictures(self, part):
        """All pictures with a class (N, C, H, W) in 0..1, and their classes."""
        config = yaml.safe_load((ROOT / "configs" / self.generators["AutoNAT"]).read_text())
        readers = {
            name: READERS[reader["class_path"]](**reader.get("init_args", {}))
            for name, reader in config["data"]["init_args"]["modalities"].items()
        }
        data = ShardData(self.train, readers, test=getattr(self, part), batch_size=500)
        data.setup("test")
        batches = list(data.test_dataloader())
        images, labels = (torch.cat([b[name] for b in batches]) for name in ("image", "label"))
        return images[labels >= 0].float() / 255, labels[labels >= 0]

    def fit(self, config, folder, seed, *options):
        """Train with the command line; seconds of the whole process, or those noted when it was done before."""
        settings = ["--config", f"configs/{config}", "--seed_everything", seed, "--trainer.default_root_dir", folder]
        return call(folder, "fit", *settings, *options, "--data.train", self.train, "--data.val", self.test)

    def fit_tokenizer(self, out, seed):
        """Its folder, and the seconds."""
        folder = out / f"tokenizer-{seed}"
        return folder, self.fit(self.tokenizer, folder, seed)

    def fit_generator(self, family, out, seed):
        """The same, with the tokenizer of this seed."""
        folder, tokenizer = out / f"seed-{seed}" / family, out / f"tokenizer-{seed}"
        return folder, self.fit(self.generators[family], folder, seed, "--model.tokenizer", str(tokenizer))

    def fit_policy(self, run, out, seed, reward):
        """The same, of a policy for the generator of this run; the best of its checkpoints in the eyes of the judge."""
        eyes = {"statistics": out / "real.npz", "judge": out / "judge.safetensors"}
        options = [
            "--trainer.precision",
            self.precision,
            "--model.model",
            run,
            "--model.metric",
            "FrechetDistance",
            "--checkpoints.best",
            "val/metric",
        ]
        options += [word for name in eyes for word in (f"--model.metric.init_args.{name}", eyes[name])]
        if reward == "Adversarial":
            options += ["--model.reward.init_args.features.init_args.classifier", out / "looks.safetensors"]
        else:
            given = eyes if reward == "FrechetReward" else {"judge": eyes["judge"]}
            spec = {"class_path": reward, "init_args": {name: str(path) for name, path in given.items()}}
            options += [
                "--model.reward",
                json.dumps(spec),
                "--model.images",
                self.images,
                "--model.draw_at_once",
                self.images,
            ]
        folder = run / "decoding" / f"policy-{reward}"
        return folder, self.fit(self.policy, folder, seed, *options)


FASHION = ImageSet(
    "fashion-mnist-mini",
    "tokenizer/fashion_mnist.yaml",
    {"ENAT": "synthesis/fashion_mnist.yaml", "AutoNAT": "synthesis/fashion_mnist_autonat.yaml"},
    "policy/fashion_mnist.yaml",
    judge_epochs=12,
    out=Path("runs/benchmark_synthesis"),
)
EMOJI = ImageSet(
    "emoji-aligned",
    "tokenizer/emoji.yaml",
    {"AutoNAT": "synthesis/emoji_autonat.yaml"},
    "policy/emoji.yaml",
    judge_epochs=40,
    out=Path("runs/benchmark_emoji"),
)
SETS = {found.name: found for found in (FASHION, EMOJI)}


def judge(path, images, labels, epochs, seed=0, batch=64):
    """The classifier that looks at images: trained on the real ones, always with the same seed. Another seed makes
    another one, for the adversary of a policy to look through."""
    if path.exists():
        return read(path).parts["judge"]
    torch.manual_seed(seed)
    given = {"classes": int(labels.max()) + 1, "channels": images.shape[1]}
    model = Classifier(**given)
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3, weight_decay=0.01)
    steps = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(batch)[: len(images) // batch]:
            some = images[index]
            some = torch.where(torch.rand(len(some), 1, 1, 1) < 0.5, some.flip(3), some)
            loss = F.cross_entropy(model(some).logits, labels[index], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    path.parent.mkdir(parents=True, exist_ok=True)
    spec = {"class_path": "mmmask.metrics.Classifier", "init_args": given}
    write(path, Model({"judge": model}, {"judge": spec}), "Judge of the benchmarks' pictures.")
    return model.eval()


def flops(generator, sampler):
    """GFLOP of one image, its tokenizer not counted."""
    with counting() as counter:
        sampler.sample(generator, torch.tensor([0]), [0])
    return counter.get_total_flops() / 1e9


def scores(look, real, images, classes):
    scored = ImageScores(look)
    for some in real.split(500):
        scored.add_real(some)
    for some, asked in zip(images.split(500), classes.split(500), strict=True):
        scored.add_generated(some, asked)
    return scored.compute()


def drawn_and_scored(model, sampler, dtype, look, real):
    """Scores of images drawn with seeds from 0, the seconds that drawing took, GFLOP of one image."""
    generator, tokenizer = copy.deepcopy(model.parts["generator"]).to(dtype), model.parts["tokenizer"]
    start, classes = time.perf_counter(), torch.arange(IMAGES) % look.classes
    batches = zip(classes.split(250), torch.arange(IMAGES).split(250), strict=True)
    ids = torch.cat([sampler.sample(generator, asked, seeds) for asked, seeds in batches])
    grids = ids.view(-1, tokenizer.grid, tokenizer.grid)
    images = torch.cat([tokenizer.decode(some) for some in grids.split(250)])
    seconds = time.perf_counter() - start
    return {**scores(look, real, images, classes), "seconds": seconds, "gflop": flops(generator, sampler)}


def evenly(labels):
    """Which pictures have the classes of those that are drawn: each class's in turn, then again from its first."""
    of_class = [torch.nonzero(labels == c).flatten() for c in range(int(labels.max()) + 1)]
    turns = torch.arange(IMAGES // len(of_class) + 1)
    return torch.stack([some[turns % len(some)] for some in of_class], 1).flatten()[:IMAGES]


def through(tokenizer, images):
    """Images after the way through their tokens."""
    return torch.cat([tokenizer.decode(tokenizer.encode(some)) for some in images.split(500)])


def remembered(note, make, *arguments):
    """What was noted there when it was made before."""
    if not note.exists():
        note.write_text(json.dumps(make(*arguments)))
    return json.loads(note.read_text())


def header():
    print("| | consistency | Frechet distance | precision | recall | GFLOP an image | s for 1,000 |")
    print("|---|---|---|---|---|---|---|")


def row(name, found):
    shown = [f"{found[key]:.3f}" for key in ("consistency", "frechet_distance", "precision", "recall")]
    shown += [f"{found['gflop']:.2f}", f"{found['seconds']:.0f}"] if "gflop" in found else ["", ""]
    print(f"| {name} | {' | '.join(shown)} |", flush=True)


def mean_rows(gathered):
    """A row of means for each name's list of what was found."""
    for name, found in gathered.items():
        row(f"{name}, mean of {len(found)}", {key: statistics.mean(each[key] for each in found) for key in found[0]})


def references(look, train, labels, test, test_labels):
    """What the scores are for real pictures, for what the classes look like on average, and for noise."""
    row("real test pictures", scores(look, train, test, test_labels))
    means = torch.stack([train[labels == c].mean(0) for c in range(int(labels.max()) + 1)])
    row("mean picture of the class", scores(look, train, means[test_labels], test_labels))
    row("noise", scores(look, train, torch.rand(test.shape, generator=torch.Generator().manual_seed(0)), test_labels))
