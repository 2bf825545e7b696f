"""GET's second stage equals the published implementation: both branches, their consistency, the fused prediction."""

import pytest
import torch
from gcd_reference import apart, batches, head_of, looks, losses_of, part, vectors
from torch import nn
from torch.testing import assert_close

from mmmask.discovery import GET, SimGCD, teacher_temperature, weighted_mean
from mmmask.metrics import DiscoveryScores
from mmmask.pretrained.simgcd import write_simgcd_head

LOGGED = {"classification": "cls_loss", "supervised_contrast": "sup_con_loss", "info_nce": "contrastive_loss"}


class Branches(nn.Module):
    """Rows to features of both modalities, `(2, rows, D)`; what makes pseudo words of images is frozen."""

    def __init__(self, data, prefix, config):
        super().__init__()
        self.image = nn.Linear(config["Din"], config["D"])
        self.words = nn.Linear(config["Din"], config["Dt"])
        self.text = nn.Linear(config["Dt"], config["D"])
        self.image.load_state_dict(part(data, f"{prefix}.backbone.f."))
        self.words.load_state_dict(part(data, "init.tes.projector."))
        self.text.load_state_dict(part(data, f"{prefix}.ln_t."))

    def forward(self, x):
        with torch.no_grad():
            words = self.words(x).tanh()
        return torch.stack([self.image(x), self.text(words)])


def check_scores(line, branch, scores, labels, old_classes):
    found = DiscoveryScores(range(old_classes))
    found.update(scores.argmax(-1), labels)
    values = {name: f"{value:.4f}" for name, value in found.compute().items()}
    words = f"All {values['all']} | Old {values['old']} | New {values['new']}"
    assert line == f"Train Accuracies({branch}): {words}"


def check_step(found, line, memax):
    """Ours are means of both branches, theirs are logged one by one."""
    logged = losses_of(line)
    cluster = found["distillation"] + memax * found["unevenness"]
    assert found["loss"].item() == pytest.approx(logged["loss"], rel=1e-4)
    assert 2 * cluster.item() == pytest.approx(logged["cluster_loss"] + logged["cluster_loss_text"], abs=2e-4)
    assert found["consistency"].item() == pytest.approx(logged["kl_img"] + logged["kl_text"], abs=2e-4)
    for ours, theirs in LOGGED.items():
        assert 2 * found[ours].item() == pytest.approx(logged[theirs] + logged[f"{theirs}_text"], abs=2e-4), theirs


def test_training_from_start_to_end():
    data, about = vectors("get_dual_train")
    config = about["config"]
    branches, head = Branches(data, "init", config), head_of(data, "init.head.", config)
    objective = GET(SimGCD(config["w"], config["memax"]), config["lamC"])
    weights = [*branches.image.parameters(), *branches.text.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(weights, config["lr"], momentum=0.9, weight_decay=config["wd"])  # all of them decay
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config["epochs"], config["lr"] * 1e-3)
    log, accuracies, test = iter(about["step_log"]), iter(about["accuracies"]), part(data, "test.")
    for epoch in range(config["epochs"]):
        for views, labels, labelled in batches(data, config["steps_per_epoch"]):
            temperature = teacher_temperature(epoch, config["warm"])
            found = objective(looks(head, branches(views)), labels, labelled, temperature)
            optimizer.zero_grad()
            found["loss"].backward()
            optimizer.step()
            check_step(found, next(log), config["memax"])
        cosine.step()
        with torch.no_grad():
            logits = head(branches(test["x"])).logits
        fused = weighted_mean(logits.softmax(-1))
        for branch, scores in (("img", logits[0]), ("text", logits[1]), ("sum", fused)):
            check_scores(next(accuracies), branch, scores, test["labels"], config["old_classes"])
        if epoch in (0, config["epochs"] - 1):
            prefix = f"epoch{epoch + 1}"
            theirs = Branches(data, prefix, config)
            for name, weight in branches.named_parameters():
                assert apart(weight, theirs.get_parameter(name)) < 1e-3, name
            for name, weight in write_simgcd_head(head.state_dict()).items():
                assert apart(weight, data[f"{prefix}.head.{name}"]) < 1e-3, name
    assert_close(logits, torch.stack([test["logits_image"], test["logits_text"]]), rtol=1e-3, atol=1e-4)
    assert_close(fused, test["fused_probs"], rtol=1e-3, atol=1e-4)
