"""4M equals the published implementation: places, encoder, decoder, logits, both losses, gradients."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from mmmask.heads import answers
from mmmask.modalities import Modality
from mmmask.pretrained.fourm import read_fourm, write_fourm
from mmmask.synthesis import Noise, Sampler
from mmmask.synthesis.generator import Conditions, Context
from mmmask.synthesis.roar import ROAR
from mmmask.synthesis.schedules import Schedule, Step
from mmmask.synthesis.target import Target
from mmmask.tokens import BLANK, Split, TokenSet, rows, tokens_of, vectors_of
from mmmask.transformer import AmongTargets, FourM

FIXTURES = Path(__file__).parents[1] / "fixtures" / "fourm"
MODALITIES = [
    Modality("rgb", 16, channels=192),
    Modality("tok_a", 16, 96),
    Modality("tok_b", 16, 40),
    Modality("caption", 12, 64, kind="sequence"),
]
NUMBERS = {11: 0, 22: 1, 33: 2, 44: 3, -1: -1}  # theirs: ours
SETS = ["forward_gelu", "forward_swiglu_qknorm"]


def load(name):
    """The model, its published weights, inputs and outputs, settings."""
    content = load_file(FIXTURES / f"{name}.safetensors")
    told = json.loads((FIXTURES / f"{name}.json").read_text())
    published = {key.removeprefix("model."): value for key, value in content.items() if key.startswith("model.")}
    config = told["config"]
    mlp = "swiglu" if config["swiglu"] else "gelu"
    model = FourM(MODALITIES, 48, 2, 2, 4, mlp=mlp, bias=config["bias"], qk_norm=config["qk_norm"])
    model.load_state_dict(read_fourm(published, MODALITIES))
    return model.eval(), published, content, told


def known_and_asked(data):
    """What the published code makes of its inputs: known tokens, asked ones, and their words."""
    patches = data["in.rgb.tensor"].unfold(2, 8, 8).unfold(3, 8, 8)  # (B, 3, 4, 4, 8, 8)
    values = patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)  # (B, 16, 192): row, column, channel
    known, asked = [], []
    for sample in range(3):
        parts, targets = [], []
        for number, modality in enumerate(MODALITIES):
            entry = {
                name: data[f"in.{modality.name}.{name}"][sample] for name in ("tensor", "input_mask", "target_mask")
            }
            ids = torch.arange(16) if number == 0 else entry["tensor"].flatten()
            kept = torch.nonzero(entry["input_mask"] == 0).flatten()
            place = torch.arange(len(kept)) if modality.kind == "sequence" else kept
            parts += [(number, int(p), int(ids[k])) for p, k in zip(place, kept, strict=True)]
            left = torch.nonzero(entry["target_mask"] == 0).flatten().tolist()
            if modality.kind == "sequence":
                pairs = [(rank, a) for rank, a in enumerate(left) if a + 1 in left]
                targets += [(number, rank, int(ids[a]), int(ids[a + 1])) for rank, a in pairs]
            elif number:
                targets += [(number, a, BLANK, int(ids[a])) for a in left]
        known.append(parts)
        asked.append(targets)
    return *token_sets(known, asked), values


def token_sets(known, asked):
    n, m = max(map(len, known)), max(map(len, asked))
    known = torch.tensor([[(*t, 1) for t in row] + [(0, 0, 0, 0)] * (n - len(row)) for row in known])
    asked = torch.tensor([[(*t, 1) for t in row] + [(1, 0, BLANK, 0, 0)] * (m - len(row)) for row in asked])
    return (
        TokenSet(known[..., 0], known[..., 1], known[..., 2], None, known[..., 3] > 0),
        TokenSet(asked[..., 0], asked[..., 1], asked[..., 2], None, asked[..., 4] > 0),
        asked[..., 3],
    )


def answered(model, data):
    known, asked, wanted, values = known_and_asked(data)
    known = TokenSet(known.modality, known.position, known.ids, values, known.valid)
    memory = model.encode(known)
    return known, asked, wanted, model.decode(asked, memory, rule=AmongTargets([3]))


@pytest.mark.parametrize("name", SETS)
def test_logits_of_each_modality(name):
    model, _, data, _ = load(name)
    with torch.no_grad():
        _, asked, _, features = answered(model, data)
        for number, modality in enumerate(MODALITIES[1:], 1):
            its = asked.valid & (asked.modality == number)
            found = answers.logits(model.embedding, modality.name, features[its])
            assert_close(found, data[f"out.logits.{modality.name}"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SETS)
def test_losses_and_gradients(name):
    model, _, data, told = load(name)
    _, asked, wanted, features = answered(model, data)
    found = answers.errors(model.embedding, asked, features, wanted)
    for key, part in told["loss_mod_parts"].items():
        assert found[key].total.item() / found[key].number == pytest.approx(part, rel=1e-4)
    words = {m.name: m.vocab_size for m in MODALITIES}  # their `token` loss: a larger vocabulary weighs more
    total, count = (sum(words[key] * part[i] for key, part in found.items()) for i in (0, 1))
    assert (total / count).item() == pytest.approx(told["loss_token"], rel=1e-4)
    loss = answers.by_modality(found)
    assert loss.item() == pytest.approx(told["loss_mod"], rel=1e-4)
    loss.backward()
    gradients = {key: torch.zeros_like(p) if p.grad is None else p.grad for key, p in model.named_parameters()}
    got = write_fourm(gradients, MODALITIES)
    assert len(told["grad_norms"]) > 60
    for key, norm in told["grad_norms"].items():
        assert got[key].norm().item() == pytest.approx(norm, rel=1e-4), key


@pytest.mark.parametrize("name", SETS)
def test_published_weights_survive_the_way_there_and_back(name):
    model, published, *_ = load(name)
    back = write_fourm(model.state_dict(), MODALITIES)
    assert back.keys() == published.keys()
    for key, value in published.items():
        assert_close(back[key], value, rtol=0, atol=1e-6, msg=key)


class RecordedNoise(Noise):
    """The noise of the reference: a row for each missing place of each sample, in ascending order; for ROAR in the
    order of the chosen places, which are the first by `order`."""

    def __init__(self, data, run):
        super().__init__(range(3))
        self.data, self.run = data, run

    def choose(self, logits, step, places):
        by = -self.gumbel(step, places) if "roar" in self.run else places
        drawn = self.data[f"{self.run}.gumbel.{step}"].view(3, -1, logits.shape[-1])
        return (logits.log_softmax(-1) + rows(drawn, by.argsort(1).argsort(1))).argmax(-1)

    def gumbel(self, step, places):
        return -self.data[f"{self.run}.order.{step}"][places]


def target_and_conditions(data):
    """tok_a is wanted; rgb and caption are given, and can be left out; tok_b is known in part, and always."""
    published = {key.removeprefix("model."): value for key, value in data.items() if key.startswith("model.")}
    model = FourM(MODALITIES, 48, 2, 2, 4)
    model.load_state_dict(read_fourm(published, MODALITIES))
    patches = data["in.rgb"].unfold(2, 8, 8).unfold(3, 8, 8)
    rgb = vectors_of(patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2), 0)
    place = torch.arange(16).expand(3, -1)
    tok_b = TokenSet(torch.full_like(place, 2), place, data["in.tok_b"], None, data["in.tok_b_known"].bool())
    empty = tokens_of(torch.full((3, 1), 5), 3)  # the first sentinel: all is left out
    given = Conditions([rgb.concat(tok_b).concat(tokens_of(data["in.caption"], 3))], tok_b.concat(empty))
    return Target(model.eval(), "tok_a"), given


def recorded(run):
    data = load_file(FIXTURES / "generate.safetensors")
    return data, json.loads((FIXTURES / "generate.json").read_text())["runs"][run]


@pytest.mark.parametrize("run", ["maskgit", "maskgit_guided", "roar"])
def test_generation_draws_the_same_ids(run):
    data, settings = recorded(run)
    left, steps = 16, []
    for count, temperature in zip(settings["tokens"], settings["temperature"], strict=True):
        left -= count
        steps.append(Step(left / 16, temperature, 0.0, settings["guidance"] - 1))  # theirs is u + w (c - u)
    sampler = (ROAR if run == "roar" else Sampler)(Schedule(steps), tempered=True)
    ids = sampler.sample(*target_and_conditions(data), RecordedNoise(data, run))
    assert torch.equal(ids, data[f"{run}.ids"])


@torch.no_grad()
def test_guided_roar_is_theirs_once_its_branches_ask_at_different_places():
    """Without a seed the published code draws places anew for the branch without conditions, and guides one by
    answers to others."""
    data, settings = recorded("roar_guided")
    target, given = target_and_conditions(data)
    ids = torch.full((3, 16), BLANK)
    for step, (count, temperature) in enumerate(zip(settings["tokens"], settings["temperature"], strict=True)):
        known = torch.stack([torch.nonzero(row != BLANK).flatten() for row in ids])
        logits = []
        for branch, condition in enumerate((given.parts[0], given.without)):
            order = data[f"roar_guided.order.{2 * step + branch}"] + (ids != BLANK) * 1e6
            places = order.argsort(1)[:, :count]
            logits.append(target(target.tokens(ids), Split(known, places), Context(condition, None))[0])
        guided = logits[1] + settings["guidance"] * (logits[0] - logits[1])
        drawn = data[f"roar_guided.gumbel.{step}"].view(3, count, -1)
        ids = ids.scatter(1, places, ((guided / temperature).log_softmax(-1) + drawn).argmax(-1))
    assert torch.equal(ids, data["roar_guided.ids"])
