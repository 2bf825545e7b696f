"""Verbs of trained models: tokenize, generate, search, evaluate."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from mmmask.cli.calling import call, listed
from mmmask.cli.training import know_classes
from mmmask.errors import UserError


def tokenize(
    run: str,
    shards: str,
    out: Path,
    keep: str = "cls,txt",
    batch_size: int = 256,
    overwrite: bool = False,
    field: str = "jpg",
    crops: int = 1,
    flip: bool = False,
    seed: int = 0,
) -> None:
    """Write the tokens of every sample of `shards` as aligned shards.

    Args:
        run: run folder of a trained tokenizer (its config.yaml and newest checkpoint are used), or an imported one;
            or run folders of several modalities, separated by commas.
        shards: path or pattern of the shards to tokenize.
        out: folder to write into; shard names stay the same.
        keep: small fields to copy along, separated by commas (cls and txt only where they are there).
        batch_size: images encoded at once.
        overwrite: replace shards of the same name.
        field: that holds the pictures, for an imported tokenizer; a run folder knows it.
        crops: parts of each sample to write, the same of all modalities: the centre, and random ones.
        flip: mirror half of the random ones; not where texts or classes tell left from right.
        seed: of the random ones.
    """
    from datamodules.token_shards import write_token_shards
    from datamodules.windows import Windows
    from mmmask.tokenizers import Normals

    know_classes()
    runs = [Path(name.strip()) for name in str(run).split(",") if name.strip()]
    tasks, readers = {}, {}
    for folder in runs:
        task, reader = _trained_tokenizer(folder, field, alone=len(runs) == 1)
        name = task.modality
        if name in tasks:
            raise UserError(f"two of the tokenizers are for '{name}', the second is {folder}: give one for each.")
        if flip and isinstance(task.tokenizer.content, Normals):
            raise UserError(f"{folder} is for normals, which a mirror turns: leave out --flip.")
        tasks[name], readers[name] = task, reader

    def tokens(batch: dict[str, Any]) -> dict[str, Any]:
        return {name: ids for task in tasks.values() for name, ids in task.tokens(batch).items()}

    fields = [kept.strip() for kept in keep.split(",") if kept.strip()]
    windows = Windows(crops, seed, flip)
    print("\n".join(write_token_shards(shards, readers, tokens, out, fields, batch_size, overwrite, windows)))


def _trained_tokenizer(run: Path, field: str, alone: bool) -> tuple[Any, Any]:
    """The task of a trained tokenizer, and what reads its data."""
    from datamodules import Array, Image
    from mmmask.pretrained.model_files import is_model
    from mmmask.tokenizers import ClassMap, Features, ImageTokenizer
    from tasks.command_line import load_run
    from tasks.finished import model_of
    from tasks.tokenizer_training import TokenizerTraining

    if not is_model(run):
        task, data = load_run(run)
        if not isinstance(task, TokenizerTraining):
            raise UserError(f"{run} is a run of {type(task).__name__}: give the run folder of a tokenizer.")
        return task, data.modalities[task.modality]
    if not alone:
        raise UserError(f"{run} is a model, which does not know its modality: give run folders to tokenize several.")
    task = TokenizerTraining(model_of(run).part("tokenizer", run)).eval()
    tokenizer = task.tokenizer
    if not isinstance(tokenizer, ImageTokenizer) or isinstance(tokenizer.content, Features):
        return task, Array(field)
    if isinstance(tokenizer.content, ClassMap):
        return task, Image(field, tokenizer.image_size, channels=1, resample="nearest")
    return task, Image(field, tokenizer.image_size, tokenizer.channels)  # type: ignore[arg-type]


def generate(arguments: list[str]) -> int:
    """`--class` cannot be the name of a parameter, so it is spelled `--classes` on the way."""
    from tasks.generating import generate

    arguments = [re.sub("^--classes(?=$|=)", "--class", word) for word in arguments]
    arguments = listed(listed(arguments, "--class", ","), "--text", None)
    return call(generate, ["--classes" if word == "--class" else word for word in arguments], "generate", False)


def predict_modality(arguments: list[str]) -> int:
    """`mmmask predict-modality --given NAME=VALUE ... --want NAMES`."""
    from tasks.predicting import predict_modality

    know_classes()
    for option in ("--given", "--weights", "--mask"):
        arguments = listed(arguments, option, None)
    return call(predict_modality, arguments, "predict-modality", False)


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
