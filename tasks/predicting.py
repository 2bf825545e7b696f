"""`mmmask predict-modality`: modalities that a trained any-to-any model predicts from others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.utils import save_image

from mmmask.errors import UserError
from mmmask.files import written_whole
from mmmask.report.modality_table import modality_table
from mmmask.synthesis import AnyToAny
from mmmask.tokenizers.trained_codec import TrainedCodec
from mmmask.tokenizers.typed_files import picture_in
from tasks.finished import fingerprint, model_of
from tasks.generating import check_seed, chosen_device

Found = dict[str, tuple[Tensor, Tensor]]


def predict_modality(
    checkpoint: Path,
    want: str,
    given: Sequence[str] = (),
    out: Path = Path("predicted"),
    then: Path | None = None,
    weights: Sequence[str] = (),
    grow: bool = True,
    mask: Sequence[str] = (),
    n: int = 1,
    steps: int | None = None,
    temperature: float | None = None,
    guidance: float | None = None,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Predict modalities from others: pictures into the folder, texts onto the screen, and a table of all.

    Args:
        checkpoint: run folder of a cross-modal training, or a model that was exported.
        want: modalities, separated by commas, decoded in this order; each is known to those that follow.
        given: NAME=VALUE of each modality that is known: a text, a name, or the path of a picture or JSON file. Gaps of
            a text, written ___, are filled if it is wanted too.
        out: folder to write into.
        then: another model, for wanted modalities that the first does not have (super-resolution). It is given what
            was given, and what the first has answered, as far as it knows these modalities by the same names; weights
            and mask concern the first alone.
        weights: NAME=NUMBER of given modalities that pull (below 0: push away), or wanted ones, on those that follow;
            the others are known, and do not.
        grow: without weights, whether what is decoded pulls on what follows as what is given does; else it is known,
            and does not.
        mask: NAME=PICTURE whose white parts are to be drawn anew, of a given picture that is wanted too.
        n: answers.
        steps: of decoding a picture (default: as the model was saved, as for the next two).
        temperature: how freely words are drawn, 0 for the likeliest; if it decays, that of the first step.
        guidance: how far to lean towards what is given.
        seed: of the first answer; each further one has the next.
        device: cpu, cuda, ...; auto takes a GPU if there is one.
    """
    if n < 1:
        raise UserError(f"predict-modality: n must be 1 or more; it is {n}.")
    check_seed(seed)
    models = [_model(path, chosen_device(device)) for path in (checkpoint, then) if path is not None]
    model, targets = models[0], [name.strip() for name in want.split(",") if name.strip()]
    _adjust(models, targets, steps=steps, temperature=temperature, guidance=guidance)
    words = dict(_pairs("given", given, models))
    visible = {
        name: _visible(model, name, Path(value)).expand(n, -1) for name, value in _pairs("mask", mask, models[:1])
    }
    pulls = {name: _number(name, value) for name, value in _pairs("weights", weights, models[:1])} or None
    answers = _answers(models, words, targets, range(seed, seed + n), pulls, grow, visible)
    out.mkdir(parents=True, exist_ok=True)
    for name, column in answers.items():
        _tell(name, column, out, seed)
    shown = {
        name: each.codec(name).seen(raw) for each in reversed(models) for name, raw in _typed(each, words, n).items()
    }
    save_image(modality_table({name: shown[name] for name in words}, answers), out / "table.png")
    print(out / "table.png")


def _adjust(models: Sequence[AnyToAny], targets: Sequence[str], **numbers: float | None) -> None:
    """Give the decoders of the targets other numbers; steps to those alone that can have several."""
    given = {setting: number for setting, number in numbers.items() if number is not None}
    wanted = {name: next((model for model in models if name in model.catalogue.names), models[0]) for name in targets}
    modalities = [model.catalogue[name] for name, model in wanted.items()]
    stepped = [modality.name for modality in modalities if modality.kind != "sequence" and modality.length > 1]
    if "steps" in given and not stepped:
        raise UserError(f"--steps: of {', '.join(targets)}, nothing is decoded in steps.")
    for name, model in wanted.items():
        own = {setting: number for setting, number in given.items() if setting != "steps" or name in stepped}
        try:
            model.decoders[name] = model.decoders[name].with_(**own) if own else model.decoders[name]
        except UserError as error:
            raise UserError(f"{name}: {error}") from error


def _answers(
    models: Sequence[AnyToAny],
    words: Mapping[str, str],
    targets: Sequence[str],
    seeds: Sequence[int],
    weights: Mapping[str, float] | None,
    grow: bool,
    visible: Mapping[str, Tensor],
) -> dict[str, Tensor | Sequence[str]]:
    """What a person is shown of each target, by the first model, or by the last if that alone has it."""
    first, last = models[0], models[-1]
    later = [name for name in targets if name not in first.catalogue.names and name in last.catalogue.names]
    now = [name for name in targets if name not in later]
    found = first.answers(_typed(first, words, len(seeds)), now, seeds, weights, visible, grow)
    raw = _decoded(first, found)
    if later:
        known = _typed(last, words, len(seeds))
        raw |= _decoded(last, last.answers(known | _passed_on(first, last, found, raw), later, seeds, grow=grow))
    return {name: (last if name in later else first).codec(name).seen(raw[name]) for name in targets}


def _model(path: Path, device: torch.device) -> AnyToAny:
    model = model_of(path)
    if list(model.parts) == ["backbone"]:
        raise UserError(
            f"{path} is a backbone without codecs: import it with --vocabulary, 4M's text tokenizer, or begin a "
            "training with it (init_from)."
        )
    found = model.part("any_to_any", path)
    assert isinstance(found, AnyToAny)
    return found.to(device)


def _typed(model: AnyToAny, words: Mapping[str, str], n: int) -> dict[str, Any]:
    """What a person typed for each modality that the model knows, n times."""
    known = {name: value for name, value in words.items() if name in model.catalogue.names}
    return {name: _repeated(model.codec(name).typed(value), n) for name, value in known.items()}


def _decoded(model: AnyToAny, found: Found) -> dict[str, Any]:
    return {name: model.codec(name).decode(ids.cpu(), length.cpu()) for name, (ids, length) in found.items()}


def _passed_on(model: AnyToAny, then: AnyToAny, found: Found, raw: Mapping[str, Any]) -> dict[str, Any]:
    """What the next model is given of answers that it knows: their tokens if both have the same tokenizer, which lose
    nothing; else the data."""
    passed = {}
    for name in set(found) & set(then.catalogue.names):
        own, other = model.codec(name), then.codec(name)
        same = isinstance(own, TrainedCodec) and fingerprint(own) == fingerprint(other)
        passed[name] = found[name][0].cpu() if same else raw[name]
    return passed


def _pairs(option: str, words: Sequence[str], models: Sequence[AnyToAny]) -> list[tuple[str, str]]:
    """Of NAME=VALUE."""
    first, found = models[0].catalogue, []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UserError(f"--{option} {word}: give NAME=VALUE, e.g. {first.names[0]}=...")
        if not any(name in model.catalogue.names for model in models):
            first.number(name)  # refuses it
        found.append((name, value))
    return found


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise UserError(f"--weights {name}={value}: the weight must be a number.") from error


def _repeated(raw: Any, n: int) -> Any:
    """A batch of one as one of n."""
    return raw.expand(n, *raw.shape[1:]) if isinstance(raw, Tensor) else [raw[0]] * n


def _visible(model: AnyToAny, name: str, mask: Path) -> Tensor:
    """Which tokens `(1, L)` of a grid are black in the mask, altogether."""
    side = round(model.catalogue[name].length ** 0.5)
    if model.catalogue[name].kind != "grid":
        raise UserError(f"--mask: {name} is no picture.")
    white = picture_in(mask, 1, 8 * side)
    return torch.nn.functional.max_pool2d(white[None], 8).flatten(1) < 0.5


def _tell(name: str, column: Tensor | Sequence[str], out: Path, seed: int) -> None:
    """Pictures as files, texts as lines of one."""
    if isinstance(column, Tensor):
        for number, picture in enumerate(column):
            save_image(picture, path := out / f"{name.replace('/', '-')}-{seed + number}.png")
            print(path)
        return
    for text in column:
        print(f"{name}: {text}")
    with written_whole(out / f"{name.replace('/', '-')}.txt") as stream:
        stream.write("".join(f"{text}\n" for text in column).encode())
