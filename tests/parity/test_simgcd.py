"""SimGCD equals the published implementation: head, each loss and its gradient, and training from start to end."""

import pytest
import torch
import torch.nn.functional as F
from gcd_reference import apart, batches, head_of, looks, losses_of, part, two_views, vectors
from torch import nn
from torch.testing import assert_close

from mmmask.discovery import (
    SimGCD,
    classification,
    distillation,
    info_nce,
    supervised_contrast,
    teacher_temperature,
    unevenness,
)
from mmmask.discovery.output_space import STUDENT_TEMPERATURE
from mmmask.metrics import DiscoveryScores
from mmmask.pretrained.simgcd import read_simgcd_head, write_simgcd_head

VIEWS = ~torch.eye(2, dtype=torch.bool)
LOGGED = {"classification": "cls_loss", "supervised_contrast": "sup_con_loss", "info_nce": "contrastive_loss"}


@pytest.mark.parametrize("variant", ["one", "two", "three", "three_bn"])
def test_the_head(variant):
    data, about = vectors("dino_head")
    head = head_of(data, f"{variant}.head.", about["variants"][variant]).eval()
    projection, logits = head(data[f"{variant}.x"])
    assert_close(projection, data[f"{variant}.proj"], rtol=1e-4, atol=1e-6)
    assert_close(logits, data[f"{variant}.logits"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("variant", ["one", "two", "three", "three_bn"])
def test_names_map_there_and_back_in_both_spellings(variant):
    published = part(vectors("dino_head")[0], f"{variant}.head.")
    state = read_simgcd_head(published)
    back = write_simgcd_head(state)
    assert back.keys() == published.keys()
    assert all(torch.equal(back[name], published[name]) for name in back)
    newer = {
        "1."
        + name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): value
        for name, value in published.items()
    }
    again = read_simgcd_head(newer | {"0.blocks.0.weight": torch.zeros(1)})
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


def terms(head, features, labels, labelled, temperature):
    """Each term of the reference, from features `(2 B, D)`."""
    projection, logits = map(two_views, head(features))
    supervised = supervised_contrast(projection, labels, labelled)
    at_a_tenth = supervised_contrast(projection, labels, labelled, temperature=0.1)
    seen = looks(head, features)
    return {
        "info_nce": info_nce(projection),
        "info_nce_0.07": info_nce(projection, 0.07),
        "sim_clr_by_sup_con": info_nce(projection, 0.07),
        "sup_con": supervised,
        "sup_con_temp0.1_base0.07": at_a_tenth * 0.1 / 0.07,
        "distill": distillation(logits, logits, VIEWS, temperature),
        "mean_entropy": unevenness(logits.flatten(0, 2)),
        "sup_ce": classification(logits, labels, labelled),
        "total": SimGCD()(seen, labels, labelled, temperature)["loss"],
    }


def test_each_loss_and_its_gradient():
    data, about = vectors("simgcd_terms")
    head = head_of(data, "head.", about["config"])
    features = data["feats"].requires_grad_()
    found = terms(head, features, data["labels"], data["mask_lab"].bool(), about["teacher_temp"])
    assert found.keys() == about["values"].keys()
    for name, loss in found.items():
        assert loss.item() == pytest.approx(about["values"][name], rel=1e-4), name
        (gradient,) = torch.autograd.grad(loss, features, retain_graph=True)
        assert apart(gradient, data[f"grad_feats.{name}"]) < 1e-4, name
    found["total"].backward()
    gradients = {name: weight.grad for name, weight in head.named_parameters()}
    theirs = write_simgcd_head(gradients)
    for name, gradient in part(data, "grad_head.total.").items():
        assert apart(theirs[name], gradient) < 1e-4, name


def test_the_losses_are_those_of_the_published_candidates_and_mean_prediction():
    data, about = vectors("simgcd_terms")
    head = head_of(data, "head.", about["config"])
    projection, logits = head(data["feats"])
    candidates = data["info_nce_logits"]  # of each look: its positive, then all others
    unit = F.normalize(projection, dim=1)
    others = (unit @ unit.T)[~torch.eye(len(unit), dtype=torch.bool)].view(candidates.shape)
    assert_close(others.sort(1).values, candidates.sort(1).values, rtol=1e-4, atol=1e-6)
    published = F.cross_entropy(candidates, data["info_nce_labels"])
    assert_close(info_nce(two_views(projection)), published, rtol=1e-4, atol=0)
    mean = data["mean_probs"]
    assert_close((logits / STUDENT_TEMPERATURE).softmax(1).mean(0), mean, rtol=1e-4, atol=1e-6)
    assert_close(unevenness(logits), (mean * (mean * len(mean)).log()).sum(), rtol=1e-4, atol=0)


def test_losses_of_random_features():
    data, about = vectors("simgcd_losses")
    head = head_of(data, "head.", about["config"])
    projection, logits = head(data["feats"])
    assert_close(projection, data["proj"], rtol=1e-4, atol=1e-6)
    assert_close(logits, data["logits"], rtol=1e-4, atol=1e-6)
    labels, labelled, temperatures = data["labels"], data["mask_lab"].bool(), data["teacher_temp_schedule"].tolist()
    found = terms(head, data["feats"], labels, labelled, temperatures[0])
    values, logits = about["values"], two_views(logits)
    for ours, theirs in {
        "info_nce": "info_nce_temp1",
        "info_nce_0.07": "info_nce_temp0.07",
        "sup_con": "sup_con_temp0.07",
        "mean_entropy": "mean_entropy_regulariser",
        "sup_ce": "sup_ce",
        "total": "total_epoch0",
    }.items():
        assert found[ours].item() == pytest.approx(values[theirs], rel=1e-4), theirs
    for epoch in (0, 15, 199):
        loss = distillation(logits, logits, VIEWS, temperatures[epoch])
        assert loss.item() == pytest.approx(values[f"distill_epoch{epoch}"], rel=1e-4)


@pytest.mark.parametrize("name", ["simgcd_terms", "simgcd_losses"])
def test_the_schedule_of_the_teacher(name):
    data, about = vectors(name)
    ours = [teacher_temperature(epoch, about["config"]["warm"]) for epoch in range(about["config"]["epochs"])]
    assert ours == pytest.approx(data["teacher_temp_schedule"].tolist())


def model_of(data, prefix, config):
    backbone = nn.Sequential(nn.Linear(config["Din"], config["D"]), nn.GELU(), nn.Linear(config["D"], config["D"]))
    backbone.load_state_dict(part(data, f"{prefix}.0."))
    return backbone, head_of(data, f"{prefix}.1.", config)


def optimizer_of(*modules, lr, wd):
    """As published: SGD with momentum; matrices decay, the directions of prototypes among them."""
    weights = [weight for module in modules for weight in module.parameters()]
    matrices = {"params": [weight for weight in weights if weight.ndim > 1]}
    others = {"params": [weight for weight in weights if weight.ndim == 1], "weight_decay": 0.0}
    return torch.optim.SGD([matrices, others], lr=lr, momentum=0.9, weight_decay=wd)


def test_training_from_start_to_end():
    data, about = vectors("simgcd_train")
    config = about["config"]
    backbone, head = model_of(data, "init", config)
    objective = SimGCD(config["w"], config["memax"])
    optimizer = optimizer_of(backbone, head, lr=config["lr"], wd=config["wd"])
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config["epochs"], config["lr"] * 1e-3)
    log = iter(about["step_log"])
    for epoch in range(config["epochs"]):
        for views, labels, labelled in batches(data, config["steps_per_epoch"]):
            found = objective(
                looks(head, backbone(views)), labels, labelled, teacher_temperature(epoch, config["warm"])
            )
            optimizer.zero_grad()
            found["loss"].backward()
            optimizer.step()
            logged = losses_of(next(log))
            cluster = found["distillation"] + config["memax"] * found["unevenness"]
            assert found["loss"].item() == pytest.approx(logged["loss"], rel=1e-4)
            assert cluster.item() == pytest.approx(logged["cluster_loss"], abs=1e-4)
            for ours, theirs in LOGGED.items():
                assert found[ours].item() == pytest.approx(logged[theirs], abs=1e-4), theirs
        cosine.step()
        scores = DiscoveryScores(range(config["old_classes"]))
        with torch.no_grad():
            scores.update(head(backbone(data["test.x"])).logits.argmax(1), data["test.labels"])
        values = {name: f"{value:.4f}" for name, value in scores.compute().items()}
        words = f"All {values['all']} | Old {values['old']} | New {values['new']}"
        assert about["accuracies"][epoch] == f"Train Accuracies: {words}"
        if epoch in (0, config["epochs"] - 1):
            theirs, their_head = model_of(data, f"epoch{epoch + 1}", config)
            for ours, published in ((backbone, theirs), (head, their_head)):
                for (name, weight), expected in zip(ours.named_parameters(), published.parameters(), strict=True):
                    assert apart(weight, expected) < 1e-3, name
    assert apart(head(backbone(data["test.x"])).logits, data["test.final_logits"]) < 1e-3
