"""`mmmask generate`: images of a trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from mmmask.errors import UserError
from mmmask.pretrained.model_files import Model
from mmmask.report import Trace
from mmmask.tokenizers.typed_files import picture_in
from mmmask.tokens import BLANK
from tasks.finished import model_of
from tasks.pictures import grid
from tasks.samplers import sampler_of

Dtype = Literal["float32", "bfloat16"]
GREY = 0.5  # of patches that are not decoded yet


def generate(
    checkpoint: Path,
    classes: list[str] | None = None,
    text: list[str] | None = None,
    vectors: Path | None = None,
    n: int = 8,
    schedule: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    temperature: float | None = None,
    local: int | None = None,
    seed: int = 0,
    out: Path = Path("grid.png"),
    strip: Path | None = None,
    gif: Path | None = None,
    trace: Path | None = None,
    image: Path | None = None,
    mask: Path | None = None,
    batch_size: int = 64,
    device: str = "auto",
    dtype: Dtype = "float32",
) -> None:
    """Draw images of classes or texts; the n-th image of a seed is the same in any batch.

    Args:
        checkpoint: run folder of an image synthesis, or a model that was exported or imported.
        classes: their numbers (default: the first ten).
        text: captions, for a model that follows texts and knows its text encoder.
        vectors: .npy file of text vectors (texts, tokens, channels) instead.
        n: images of each class or text.
        schedule: another one than the model was saved with: MaskGIT's cosine, enat (its own), autonat (the published
            one), recap, or a file that `mmmask search` wrote.
        steps: decoding steps (default: as in training).
        guidance: how far to lean towards the class, 0 for not at all (default: as in training).
        temperature: how freely words are drawn (default: as in training).
        local: cheap steps after each full one (ReCAP), of the steps that there are; goes well with --schedule recap.
        seed: of the first image; each further one has the next.
        out: picture to write, a row for each class or text.
        strip: picture of the decoding steps, a row for each class or text.
        gif: the same as a film.
        trace: picture of what each step did and cost: tokens revealed, confidence, settings, FLOPs (first batch).
        image: picture to fill in or to extend; needs mask.
        mask: picture whose white parts are to be drawn anew; the tokens of the rest are kept.
        batch_size: images drawn at once.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
        dtype: of the generator; bfloat16 is several times faster where the processor multiplies it, and decides
            draws that are close in another way.
    """
    if n < 1 or batch_size < 1:
        raise UserError(f"generate: n and batch_size must be 1 or more; they are {n} and {batch_size}.")
    check_seed(seed)
    _check_names(out, strip, trace, gif)
    where = chosen_device(device)
    model = model_of(checkpoint).to(where)
    generator, tokenizer = (model.part(name, checkpoint) for name in ("generator", "tokenizer"))
    generator.to(getattr(torch, dtype))
    sampler = sampler_of(model, schedule, local, steps=steps, guidance=guidance, temperature=temperature)
    given = _given(model, classes, text, vectors).to(where)
    rows, blank = given.repeat_interleave(n, 0), torch.full((1, generator.modality.length), BLANK)
    kept = (blank if image is None and mask is None else _kept(tokenizer, image, mask)).to(where)
    seeds, watched = torch.arange(seed, seed + len(rows)), Trace() if trace else None
    draw = partial(sampler.steps, generator)
    ids = _drawn(draw, rows, seeds, kept, batch_size, bool(strip or gif), watched)
    images = _images(tokenizer, ids[:, -1], batch_size)
    _save(grid(images, n), out)
    if trace and watched:
        watched.draw(trace)
        print(trace)
    if strip or gif:
        _save_steps(_unfinished(images[::n], ids[::n], tokenizer.grid), strip, gif)  # the first of each row


def _drawn(
    draw: Callable[..., Iterator[Any]],
    rows: Tensor,
    seeds: Tensor,
    kept: Tensor,
    batch_size: int,
    all_steps: bool,
    watched: Trace | None,
) -> Tensor:
    """Ids `(B, steps or 1, L)` after all steps or the last; the trace watches the first batch."""
    batches = list(zip(rows.split(batch_size), seeds.split(batch_size), strict=True))
    console, films = Console(stderr=True), list[Tensor]()
    for some, own in track(batches, "drawing", console=console, transient=True, disable=len(batches) < 2):
        start = kept.expand(len(some), -1)
        decoding = draw(some, own, start)
        if watched and not films:
            decoding = watched.of(decoding, start)
        states = [decoded.ids for decoded in decoding]
        films.append(torch.stack(states if all_steps else states[-1:], 1).cpu())
    return torch.cat(films)


def chosen_device(name: str) -> torch.device:
    """The device of this name; `auto` is a GPU if there is one."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"there is no device '{name}' here: give cpu, cuda, cuda:1, mps or auto.") from error
    return device


def check_seed(seed: int) -> None:
    """Seeds, and those of further images, are numbers of 64 bits."""
    if not 0 <= seed < 2**62:
        raise UserError(f"seed is {seed}; give a number from 0 to below 2^62.")


def _check_names(*paths: Path | None) -> None:
    """Before anything is drawn: pictures are .png or .jpg, a film is .gif."""
    *pictures, film = paths
    for path in pictures:
        if path is not None and path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise UserError(f"{path}: pictures are written as .png or .jpg.")
    if film is not None and film.suffix.lower() != ".gif":
        raise UserError(f"{film}: films are written as .gif.")


def _given(model: Model, classes: Sequence[str] | None, text: Sequence[str] | None, vectors: Path | None) -> Tensor:
    """Classes `(k,)`, or text vectors `(k, n, channels)`."""
    known = model.parts["generator"].classes
    if known is None:
        if classes is not None or (text is None) == (vectors is None):
            raise UserError("this model follows texts: give either --text, or --vectors FILE.npy.")
        return text_vectors(model, text) if text is not None else _loaded(vectors)
    if text is not None or vectors is not None:
        raise UserError("this model follows classes, not texts: give --class.")
    if classes is None:
        return torch.arange(min(known, 10))
    numbers = []
    for name in classes:
        if not name.isdecimal() or int(name) >= known:
            raise UserError(f"there is no class '{name}': the model knows 0 to {known - 1}.")
        numbers.append(int(name))
    return torch.tensor(numbers)


def text_vectors(model: Model, texts: Sequence[str]) -> Tensor:
    """Vectors `(k, n, channels)` of captions, by the text encoder that the model was trained with."""
    if "text_encoder" not in model.parts:
        raise UserError("this model does not know its text encoder: give vectors, made by the one it was trained with.")
    return model.parts["text_encoder"](texts)


def _loaded(path: Path | None) -> Tensor:
    try:
        return torch.from_numpy(np.asarray(np.load(path))).float()  # type: ignore[arg-type]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is no .npy file of numbers.") from error


def _kept(tokenizer: Any, image: Path | None, mask: Path | None) -> Tensor:
    """Ids `(1, L)` of a picture, BLANK where the mask is white."""
    if image is None or mask is None:
        raise UserError("generate: image and mask go together: the picture, and which part of it is drawn anew.")
    side = tokenizer.image_size
    pixels, white = picture_in(image, tokenizer.channels, side), picture_in(mask, 1, side)
    ids = tokenizer.encode(pixels[None].to(next(tokenizer.parameters()).device)).cpu()
    patch = side // tokenizer.grid
    drawn = torch.nn.functional.max_pool2d(white[None], patch)[:, 0] > 0.5  # any white in a patch: all of it
    return torch.where(drawn, BLANK, ids).flatten(1)


def _images(tokenizer: Any, ids: Tensor, batch_size: int) -> Tensor:
    device = next(tokenizer.parameters()).device
    grids = ids.view(-1, tokenizer.grid, tokenizer.grid).split(batch_size)
    return torch.cat([tokenizer.decode(some.to(device)).float().cpu() for some in grids])


def _unfinished(images: Tensor, ids: Tensor, side: int) -> Tensor:
    """What is known of images `(k, C, H, W)` after each step `(k, steps, L)`: `(k, steps, C, H, W)`."""
    patch = images.shape[-1] // side
    blank = (ids == BLANK).unflatten(-1, (side, side))[:, :, None]
    hidden = blank.repeat_interleave(patch, -2).repeat_interleave(patch, -1)
    return torch.where(hidden, GREY, images[:, None])


def _picture(pixels: Tensor) -> Image.Image:
    return to_pil_image(pixels.clamp(0, 1))


def _save_steps(frames: Tensor, strip: Path | None, gif: Path | None) -> None:
    """Pictures after each step `(k, steps, C, H, W)`, side by side and as a film."""
    if strip:
        _save(grid(frames.flatten(0, 1), frames.shape[1]), strip)
    if gif:
        film = [_picture(grid(frame, min(10, len(frames)))) for frame in frames.unbind(1)]
        gif.parent.mkdir(parents=True, exist_ok=True)
        film[0].save(gif, save_all=True, append_images=film[1:], duration=[250] * (len(film) - 1) + [1500], loop=0)


def _save(pixels: Tensor, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _picture(pixels).save(path)
    print(path)
