"""Verbs of trained models: tokenize, generate, search, evaluate."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from mmmask.cli.calling import call, listed
from mmmask.cli.training import know_classes
from mmmask.errors import UserError


def tokenize(
    run: Path,
    shards: str,
    out: Path,
    keep: str = "cls,txt",
    batch_size: int = 256,
    overwrite: bool = False,
    field: str = "jpg",
) -> None:
    """Write the tokens of every sample of `shards` as aligned shards.

    Args:
        run: run folder of a trained tokenizer (its config.yaml and newest checkpoint are used), or an imported one.
        shards: path or pattern of the shards to tokenize.
        out: folder to write into; shard names stay the same.
        keep: small fields to copy along, separated by commas (cls and txt only where they are there).
        batch_size: images encoded at once.
        overwrite: replace shards of the same name.
        field: that holds the pictures, for an imported tokenizer; a run folder knows it.
    """
    from datamodules import Image
    from datamodules.token_shards import write_token_shards
    from mmmask.pretrained.model_files import is_model
    from tasks.command_line import load_run
    from tasks.finished import model_of
    from tasks.tokenizer_training import TokenizerTraining

    know_classes()
    if is_model(run):
        task = TokenizerTraining(model_of(run).part("tokenizer", run)).eval()
        tokenizer: Any = task.tokenizer
        modalities = {"image": Image(field, size=tokenizer.image_size, channels=tokenizer.channels)}
    else:
        task, data = load_run(run)
        if not isinstance(task, TokenizerTraining):
            raise UserError(f"{run} is a run of {type(task).__name__}: give the run folder of a tokenizer.")
        modalities = data.modalities
    fields = [kept.strip() for kept in keep.split(",") if kept.strip()]
    report = write_token_shards(shards, modalities, task.tokens, out, fields, batch_size, overwrite)
    print("\n".join(report))


def generate(arguments: list[str]) -> int:
    """`--class` cannot be the name of a parameter, so it is spelled `--classes` on the way."""
    from tasks.generating import generate

    arguments = [re.sub("^--classes(?=$|=)", "--class", word) for word in arguments]
    arguments = listed(listed(arguments, "--class", ","), "--text", None)
    return call(generate, ["--classes" if word == "--class" else word for word in arguments], "generate", False)


def search(arguments: list[str]) -> int:
    """`mmmask search --config ...`."""
    from mmmask import shipped
    from tasks.searching import search

    know_classes()
    return call(search, shipped.with_paths(arguments), "search", False)


def evaluate(
    checkpoint: Path,
    judge: Path | None = None,
    inception: Path | None = None,
    real: str | None = None,
    field: str = "png",
    statistics: Path | None = None,
    save_statistics: Path | None = None,
    captions: Path | None = None,
    clip: Path | None = None,
    n: int = 1000,
    schedule: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    temperature: float | None = None,
    local: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    device: str = "auto",
    dtype: Literal["float32", "bfloat16"] = "float32",
    out: Path | None = None,
) -> None:
    """Draw images and score them: Frechet distance (FID), inception score, precision, recall, consistency, CLIP score.

    Args:
        checkpoint: run folder of an image synthesis, or a model that was exported or imported.
        judge: run folder of a trained classifier, or an exported one, whose features are compared; or:
        inception: weights of FID's Inception, as torch-fidelity publishes them.
        real: shards of real images to compare with.
        field: of the shards that holds the image.
        statistics: mean and covariance of real features (.npz with mu, sigma) instead of real images.
        save_statistics: where to keep those of the real images.
        captions: file with a text in each line, for a model that follows texts.
        clip: folder of a CLIP that says how well images fit their captions.
        n: images to draw: classes, or captions, in turn.
        schedule: another one than the model was saved with: cosine, enat, autonat, recap, or a file of `mmmask search`.
        steps: decoding steps (default: as in training).
        guidance: how far to lean towards the class (default: as in training).
        temperature: how freely words are drawn (default: as in training).
        local: cheap steps after each full one (ReCAP), of the steps that there are.
        seed: of the first image; each further one has the next.
        batch_size: images drawn at once.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        dtype: of the generator.
        out: file that gets a line of JSON with the scores and all settings.
    """
    from datamodules import Image, ShardData
    from tasks.evaluating import Evaluation, extractor_of

    evaluation = Evaluation(checkpoint, extractor_of(judge, inception), device, dtype)
    evaluation.follow(captions, clip)
    if statistics is not None:
        evaluation.scores.add_statistics(statistics)
    if real is not None:
        tokenizer = evaluation.tokenizer
        image = Image(field=field, size=tokenizer.image_size, channels=tokenizer.channels)
        data = ShardData(real, {"image": image}, test=real, batch_size=batch_size)
        data.setup("test")
        for batch in data.test_dataloader():
            evaluation.add_real(batch["image"])
    if save_statistics is not None:
        evaluation.scores.save_statistics(save_statistics)
    changes = {"steps": steps, "guidance": guidance, "temperature": temperature}
    row = evaluation.run(n, seed, batch_size, out, schedule, local, **changes)
    for name, value in row.items():
        if isinstance(value, float):
            print(f"{name:<18} {value:.4g}")
    if "frechet_distance" not in row:
        print("frechet_distance   needs real images, or their statistics: give --real or --statistics")
