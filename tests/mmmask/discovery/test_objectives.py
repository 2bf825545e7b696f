"""Objectives of paired data: our reading of MM-GCD against loops over its formulas, missing modalities, a discovery."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from mmmask.discovery import GET, MMGCD, Looks, MeanFusion, SimGCD, classification, info_nce, teacher_temperature
from mmmask.errors import UserError
from mmmask.heads import DiscoveryHead
from mmmask.metrics import DiscoveryScores

LABELS = torch.tensor([0, 1, 0, 2, 1, 4])
LABELLED = torch.tensor([True, True, True, True, False, False])
PRESENT = torch.tensor([[True, True, False, True, True, True], [True, True, True, False, False, True]])
OBJECTIVES = [SimGCD(), GET(), *(MMGCD(f, o) for f in (True, False) for o in (True, False))]


def head():
    torch.manual_seed(0)
    return DiscoveryHead(8, 5, width=4, hidden=16)


def features(modalities=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(modalities, 2, 6, 8, generator=generator, requires_grad=True)


def looped_outputs(logits, present, teacher):
    """The terms of output alignment as means over a list of cross entropies, told one by one."""

    def fused(view, sample):
        return logits[present[:, sample], view, sample].mean(0)

    def teaches(q, p):
        return -((q / teacher).softmax(-1) * (p / 0.1).log_softmax(-1)).sum().item()

    terms = {"distillation": [], "cross": [], "fusion": [], "fused_classification": []}
    for sample in range(6):
        there = [m for m in range(len(logits)) if present[m, sample]]
        for view in (0, 1):
            for m in there:
                own, other = logits[m, 1 - view, sample], logits[m, view, sample]
                terms["distillation"].append(teaches(other, own))
                terms["cross"] += [teaches(logits[n, view, sample], own) for n in there if n != m]
                terms["fusion"].append(teaches(fused(view, sample), own))
            if LABELLED[sample] and there:
                answer = (fused(view, sample) / 0.1)[None]
                terms["fused_classification"].append(F.cross_entropy(answer, LABELS[sample][None]).item())
    sets = [torch.stack([logits[m, v, s] for v in (0, 1) for s in range(6) if present[m, s]]) for m in (0, 1)]
    sets.append(torch.stack([fused(v, s) for v in (0, 1) for s in range(6) if present[:, s].any()]))
    even = []
    for rows in sets:
        mean = (rows / 0.1).softmax(-1).mean(0)
        even.append((math.log(5) + (mean * mean.log()).sum()).item())
    return {name: sum(values) / len(values) for name, values in terms.items()} | {"unevenness": sum(even) / len(even)}


@pytest.mark.parametrize("present", [torch.ones(2, 6, dtype=torch.bool), PRESENT])
def test_outputs_are_aligned_across_views_and_modalities_and_with_the_fused_one(present):
    looks = Looks.through(head(), features(), present)
    found = MMGCD()(looks, LABELS, LABELLED, 0.05)
    for name, value in looped_outputs(looks.logits.detach(), present, 0.05).items():
        assert found[name].item() == pytest.approx(value, rel=1e-4), name


def test_looks_teach_together_as_much_as_they_count():
    looks = Looks.through(head(), features())
    trusted = replace(looks, weights=torch.tensor([1.0, 1e-6])[:, None, None].expand(2, 2, 6))
    found = MMGCD()(trusted, LABELS, LABELLED, 0.05)
    assert_close(found["fused_classification"], classification(looks.logits[0], LABELS, LABELLED), atol=1e-4, rtol=0)
    assert found["fusion"] != MMGCD()(looks, LABELS, LABELLED, 0.05)["fusion"]


def test_features_are_aligned_across_views_and_across_modalities_too_if_wanted():
    looks = Looks.through(head(), features())
    aligned, apart = (MMGCD(which)(looks, LABELS, LABELLED, 0.05) for which in (True, False))
    each = [info_nce(looks.projections[modality], 0.1) for modality in (0, 1)]
    assert_close(apart["info_nce"], sum(each) / 2)
    assert_close(aligned["info_nce"], (sum(each) + info_nce(looks.projections.flatten(0, 1), 0.1)) / 3)
    assert aligned["supervised_contrast"] != apart["supervised_contrast"]


def test_the_loss_is_the_weighted_sum_of_its_terms():
    looks = Looks.through(head(), features(), PRESENT)
    t = MMGCD(supervised=0.3, cross=0.5, fusion=0.7, evenness=1.5)(looks, LABELS, LABELLED, 0.05)
    free = t["info_nce"] + t["distillation"] + 0.5 * t["cross"] + 0.7 * t["fusion"] + 1.5 * t["unevenness"]
    told = t["supervised_contrast"] + t["classification"] + t["fused_classification"]
    assert_close(t["loss"], 0.7 * free + 0.3 * told)


def test_without_alignment_it_is_simgcd():
    looks = Looks.through(head(), features(), PRESENT)
    plain = MMGCD(False, False, contrast_temperature=1.0)(looks, LABELS, LABELLED, 0.05)
    simgcd = SimGCD()(looks, LABELS, LABELLED, 0.05)
    assert plain.keys() == simgcd.keys()
    assert all(torch.equal(plain[name], simgcd[name]) for name in plain)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_an_absent_modality_enters_no_term_and_reaches_no_weight(objective):
    results = []
    for rubbish in (3.0, math.nan):
        model, x = head(), features()
        x = torch.where(PRESENT[:, None, :, None], x.detach(), rubbish).requires_grad_()
        found = objective(Looks.through(model, x, PRESENT), LABELS, LABELLED, 0.05)
        found["loss"].backward()
        results.append([*found.values(), x.grad, *(weight.grad for weight in model.parameters())])
        assert not x.grad.masked_select(~PRESENT[:, None, :, None]).any()
    for one, other in zip(*results, strict=True):
        assert one.isfinite().all()
        assert torch.equal(one, other)


@pytest.mark.parametrize("objective", [o for o in OBJECTIVES if not isinstance(o, GET)], ids=repr)
def test_a_modality_that_no_sample_has_is_as_if_there_was_none(objective):
    absent = torch.tensor([[True] * 6, [False] * 6])
    model, x = head(), features()
    found = objective(Looks.through(model, x, absent), LABELS, LABELLED, 0.05)
    temperature = objective.contrast_temperature
    alone = SimGCD(contrast_temperature=temperature)(Looks.through(model, x[:1]), LABELS, LABELLED, 0.05)
    for name in alone.keys() - {"loss"}:
        assert_close(found[name], alone[name])
    if "cross" in found:
        assert found["cross"] == 0
        assert_close(found["fusion"], found["distillation"])


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize("present", [None, torch.zeros(2, 6, dtype=torch.bool)])
def test_a_batch_without_labels_or_without_anything_is_finite(objective, present):
    model, x = head(), features()
    found = objective(Looks.through(model, x, present), LABELS, torch.zeros(6, dtype=torch.bool), 0.05)
    found["loss"].backward()
    assert found["supervised_contrast"] == 0
    assert found["classification"] == 0
    assert all(gradient.isfinite().all() for gradient in [x.grad, *(w.grad for w in model.parameters())])
    if present is not None:
        assert found["loss"] == 0


def paired_data(generator, samples):
    """Six classes, three of them old; in either modality a sample may look like another class."""
    labels = torch.randint(6, (samples,), generator=generator)
    labelled = (labels < 3) & (torch.rand(samples, generator=generator) < 0.5)
    means = 2 * torch.eye(16)[torch.stack([labels, labels + 8])]  # (2, samples, 16)
    of_sample = torch.randn(2, 1, samples, 16, generator=generator)
    views = means[:, None] + of_sample + 0.3 * torch.randn(2, 2, samples, 16, generator=generator)
    return views, labels, labelled


def discovered(objective, views, labels, labelled):
    """Accuracy on unlabelled samples, by image, by text, and by both, after a short training."""
    torch.manual_seed(0)
    encoders = torch.nn.ModuleList(torch.nn.Linear(16, 16) for _ in range(2))
    model = DiscoveryHead(16, 6, width=16, hidden=32)
    optimizer = torch.optim.Adam([*encoders.parameters(), *model.parameters()], 1e-2)

    def seen(part):
        encoded = [encoder(x) for encoder, x in zip(encoders, views[:, :, part], strict=True)]
        return Looks.through(model, torch.stack(encoded))

    for step in range(150):
        part = torch.randint(len(labels), (48,))
        found = objective(seen(part), labels[part], labelled[part], teacher_temperature(step / 10, 10))
        optimizer.zero_grad()
        found["loss"].backward()
        optimizer.step()
    logits = seen(~labelled).logits[:, 0].detach()
    found = []
    for scores in (*logits, MeanFusion()(logits)):
        judge = DiscoveryScores(range(3))
        judge.update(scores.argmax(-1), labels[~labelled])
        found.append(judge.compute()["all"].item())
    return found


@pytest.fixture
def one_thread():
    """Tensors are small here: threads wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_two_aligned_modalities_discover_more_than_one_and_than_two_apart():
    data = paired_data(torch.Generator().manual_seed(0), 360)
    image, text, fused = discovered(MMGCD(), *data)
    *_, apart = discovered(MMGCD(False, False), *data)
    assert fused > max(image, text) + 0.05
    assert fused > apart + 0.1


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda: Looks(torch.zeros(2, 6, 8), torch.zeros(2, 6, 4), torch.zeros(2, 6, 5)), "modalities, views, samples"),
        (lambda: Looks.through(head(), torch.zeros(2, 1, 6, 8)), "augment twice"),
        (lambda: Looks.through(head(), torch.zeros(2, 2, 6, 8), torch.ones(6, 2, dtype=torch.bool)), r"= \(2, 6\)"),
        (lambda: SimGCD(supervised=1.5), "SimGCD: supervised is the share of labels, from 0 to 1; it is 1.5"),
        (lambda: MMGCD(contrast_temperature=0), "contrast_temperature must be above 0"),
        (lambda: MMGCD(cross=-1), "cross weighs a loss"),
        (lambda: MMGCD()(Looks.through(head(), features(1)), LABELS, LABELLED, 0.05), "use SimGCD"),
        (lambda: GET()(Looks.through(head(), features(1)), LABELS, LABELLED, 0.05), "use SimGCD"),
    ],
)
def test_mistakes_are_told(run, words):
    with pytest.raises(UserError, match=words):
        run()
