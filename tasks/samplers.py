"""How to decode, from what a person asks for: a model's own sampler, with changes."""

from __future__ import annotations

from pathlib import Path

import yaml

from mmmask.config_errors import check_readable
from mmmask.errors import UserError
from mmmask.pretrained.model_files import Model, Spec, build
from mmmask.synthesis import AdaptiveSampler, Policy, Sampler, Schedule

SCHEDULES = {
    "cosine": "mmmask.synthesis.CosineSchedule",
    "enat": "mmmask.synthesis.ENATSchedule",
    "autonat": "mmmask.synthesis.AutoNATSchedule",
    "recap": "mmmask.synthesis.ReCAPSchedule",
}
LISTS = {"ratios", "remasks", "temperatures", "guidances"}  # of a strategy
PLAIN, RECAP = "mmmask.synthesis.Sampler", "mmmask.synthesis.ReCAP"


def sampler_of(model: Model, schedule: str | None = None, local: int | None = None, **changes: float | None) -> Sampler:
    """The model's sampler, with another schedule, cheap steps (ReCAP), number of steps, guidance or temperature if they
    are given."""
    wanted = {name: value for name, value in changes.items() if value is not None}
    if schedule is None and "policy" in model.parts:
        return _adaptive(model.parts["policy"], wanted, local)
    if not wanted and schedule is None and local is None:
        return model.parts.get("sampler") or Sampler()
    chosen = _own(model) if schedule is None else _named(schedule)
    if local is not None and chosen["class_path"] == SCHEDULES["recap"]:
        wanted["local"] = local  # its noise falls with the groups
    try:
        return with_schedule(model, {**chosen, "init_args": {**(chosen.get("init_args") or {}), **wanted}}, local)
    except UserError as error:
        source = "" if schedule is None or schedule in SCHEDULES else f"{schedule}: "
        if "does not fit" not in str(error) or not wanted:
            raise UserError(f"{source}{error}") from error
        name, steps = chosen["class_path"].rpartition(".")[2], len(with_schedule(model, chosen).schedule)
        raise UserError(
            f"{source}{name} has no such setting ({', '.join(wanted)}), it is what it is, with {steps} steps: choose "
            "another with --schedule cosine or enat."
        ) from error


def with_schedule(model: Model, schedule: Spec, local: int | None = None) -> Sampler:
    """The model's sampler with another schedule, which may come from anywhere: only classes of mmmask are built.

    With `local` it is a ReCAP, which keeps order, top_k and top_p.
    """
    spec: Spec = model.specs.get("sampler") or {"class_path": PLAIN}
    built = build(schedule)
    if not isinstance(built, Schedule):
        raise UserError(f"{schedule['class_path']} is no schedule.")
    given = {**(spec.get("init_args") or {}), "schedule": built}
    if local is not None:
        given = {name: value for name, value in given.items() if name != "reuse"} | {"local": local}
        spec = {"class_path": RECAP}
    return build({**spec, "init_args": given}, trusted=True)


def _adaptive(policy: Policy, wanted: dict[str, float], local: int | None) -> Sampler:
    """The policy decides on everything; what it was made for cannot be changed."""
    if wanted != ({"steps": policy.steps} if wanted else {}) or local is not None:
        given = ", ".join([*wanted, *(["local"] if local is not None else [])])
        raise UserError(
            f"this model decodes by a policy for {policy.steps} steps, which leaves no choice of {given}: give a "
            "--schedule to decode without it."
        )
    return AdaptiveSampler(policy)


def _own(model: Model) -> Spec:
    """The schedule that the model was saved with."""
    given = (model.specs.get("sampler") or {}).get("init_args") or {}
    return dict(given.get("schedule") or {"class_path": SCHEDULES["cosine"]})


def _named(name: str) -> Spec:
    """One of those that have a name, or what a file says."""
    if name in SCHEDULES:
        return {"class_path": SCHEDULES[name]}
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"there is no schedule '{name}': give {', '.join(SCHEDULES)} or a .yaml of mmmask search.")
    check_readable(path)
    spec = yaml.safe_load(path.read_text())
    whole = isinstance(spec, dict) and isinstance(spec.get("init_args") or {}, dict)
    if not whole or not str(spec.get("class_path", "")).startswith("mmmask.synthesis."):
        raise UserError(f"{path} describes no schedule of mmmask.synthesis with init_args, as mmmask search writes it.")
    if spec["class_path"] == SCHEDULES["autonat"] and (missing := LISTS - (spec.get("init_args") or {}).keys()):
        raise UserError(f"{path} is cut, or was edited: it has no {' and no '.join(sorted(missing))}.")
    return spec
