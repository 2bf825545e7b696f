"""AutoNAT equals the published implementation: logits, loss, gradients, six optimiser steps, generation."""

import pytest
import torch
import torch.nn.functional as F
from nat_reference import RecordedNoise, autonat, ours, vectors
from torch.testing import assert_close

from mmmask.pretrained.nat import read_autonat, write_autonat
from mmmask.synthesis import AutoNATSchedule, Sampler
from mmmask.tokens import Split, rows


def masked(data):
    """The reference's batch: tokens, split, labels of the asked."""
    ids = ours(data["masked_ids"])
    counts = (ids == -1).sum(1)
    order = (ids != -1).int().argsort(dim=1, stable=True)
    n = int(counts.max())
    valid = torch.arange(n) < counts[:, None]
    asked = order[:, :n]
    labels = data["x0"].gather(1, asked).where(valid, -1)
    return data["x0"], Split(order[:, :0], asked, None, valid), labels


def loss_of(model, data, smoothing=0.1):
    ids, split, labels = masked(data)
    logits, _ = model(model.tokens(ids), split, model.context(data["context"][:, 0]))
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1, label_smoothing=smoothing), logits


def test_logits_and_loss():
    model, data = autonat(), vectors("autonat_train")
    loss, logits = loss_of(model, data)
    _, split, labels = masked(data)
    expected = rows(data["logits"], split.asked)
    assert_close(logits[labels >= 0], expected[labels >= 0], rtol=1e-4, atol=2e-5)
    assert_close(loss, data["loss"][0], rtol=1e-4, atol=0)
    assert_close(loss_of(model, data, smoothing=0)[0], data["loss_no_smoothing"][0], rtol=1e-4, atol=0)


def test_gradients():
    model, data = autonat(), vectors("autonat_train")
    loss_of(model, data)[0].backward()
    expected = read_autonat({k[5:]: v for k, v in data.items() if k.startswith("grad.")})
    got = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert got.keys() == expected.keys()
    for name in got:
        assert_close(got[name], expected[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_six_steps_of_the_optimiser_and_the_average():
    model, data = autonat(), vectors("autonat_train")
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3, (0.99, 0.99), 1e-8, 0.03)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    for lr, expected in zip(data["steps.lr"], data["steps.losses"], strict=True):
        optimizer.param_groups[0]["lr"] = lr.item()
        loss, _ = loss_of(model, data)
        assert_close(loss, expected, rtol=1e-4, atol=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name, value in model.state_dict().items():
            average[name].lerp_(value, 0.1)
    for kind, state in (("final", model.state_dict()), ("ema", average)):
        published = write_autonat(state)
        for name in (name for name in data if name.startswith(f"steps.{kind}.")):
            theirs = published[name.removeprefix(f"steps.{kind}.")]
            kept = slice(None, -1) if "bias" in name else slice(None)  # of the mask, which is never predicted
            assert_close(theirs[..., kept], data[name][..., kept], rtol=1e-4, atol=1e-5)


def test_generation_with_the_published_strategy():
    model, data = autonat(), vectors("autonat_generate")
    noise = RecordedNoise(data["cat_noise"], data["remask_noise"])
    steps = list(Sampler(AutoNATSchedule()).steps(model, data["context"][:, 0], noise))
    for decoded, expected in zip(steps, [*ours(data["ids_in"])[1:], data["final"].flatten(1)], strict=True):
        assert torch.equal(decoded.ids, expected)
    assert steps[-1].evaluations == 2 * 8 * 2


def test_names_map_there_and_back():
    published = vectors("autonat_weights")
    back = write_autonat(read_autonat(published))
    assert back.keys() == published.keys()
    for name in back:
        if name != "mlm_layer.bias":
            assert torch.equal(back[name], published[name]), name
    assert torch.equal(back["mlm_layer.bias"][..., :-1], published["mlm_layer.bias"][..., :-1])


@pytest.mark.parametrize("extra", ["module.", ""])
def test_what_older_libraries_left_in_a_file_is_ignored(extra):
    published = {extra + name: value for name, value in vectors("autonat_weights").items()}
    published["token_emb.position_ids"] = torch.arange(256)[None]
    assert read_autonat(published).keys() == autonat().state_dict().keys()
