"""ENAT equals the published implementation: features, logits, loss, gradients with and without reuse, generation."""

import pytest
import torch
import torch.nn.functional as F
from nat_reference import WORDS, RecordedNoise, enat, ours, vectors
from torch.testing import assert_close

from mmmask.pretrained.nat import read_enat, write_enat
from mmmask.synthesis import ENATSchedule, Sampler
from mmmask.tokens import Split, rows


def places(which):
    """The places of the true ones `(B, n)`; each row has equally many."""
    return which.logical_not().int().argsort(dim=1, stable=True)[:, : int(which[0].sum())]


def loss_of(model, data):
    """The loss, logits and places asked; with a memory of an earlier step if the set has one."""
    ids = data["x0"]
    tokens = model.tokens(ids)
    hidden, context = data["masked_ids"] == WORDS, model.context(data["context"][:, 0])
    memory, known = None, ~hidden
    if "prev_masking" in data:
        hidden_before = data["prev_masking"].bool()
        known = ~hidden & hidden_before
        with torch.no_grad():
            memory = model.remember(tokens, Split(places(~hidden_before), places(hidden_before)), context)
        assert_close(memory.features, rows(data["prev_feat"], places(~hidden_before)), rtol=1e-4, atol=2e-5)
        if not len(memory.tokens):
            memory = None
    split = Split(places(known), places(hidden))
    logits, _ = model(tokens, split, context, memory)
    labels = ids.gather(1, split.asked)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1), logits, split.asked


SETS = ["plain", "reuse", "reuse_all_new", "reuse_none_new"]


@pytest.mark.parametrize("name", SETS)
def test_logits_and_loss(name):
    model, data = enat(), vectors(f"enat_train_{name}")
    loss, logits, asked = loss_of(model, data)
    assert_close(logits, rows(data["logits"], asked), rtol=1e-4, atol=2e-5)
    assert_close(loss, data["loss"][0], rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", SETS)
def test_gradients(name):
    model, data = enat(), vectors(f"enat_train_{name}")
    loss_of(model, data)[0].backward()
    got = write_enat({n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()})
    expected = {k[5:]: v for k, v in data.items() if k.startswith("grad.")}
    assert len(expected) > 40
    for key, value in got.items():
        if key == "y_embedder.embedding_table.weight":
            assert_close(value[data["context"][:, 0]], data["grad_y_rows"], rtol=1e-4, atol=1e-6)
        else:
            theirs = expected.get(key, torch.zeros_like(value))  # parts that had no gradient
            assert_close(value, theirs, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("reuse", [True, False])
def test_generation(reuse):
    model, data = enat(), vectors("enat_generate")
    noise = RecordedNoise(data["cat_noise"], data["remask_noise"])
    sampler = Sampler(ENATSchedule(6, temperature=6.0, remask=1.5, guidance=2.5), reuse=reuse)
    steps = list(sampler.steps(model, data["context"][:, 0], noise))
    same = [
        torch.equal(decoded.ids, expected)
        for decoded, expected in zip(steps, [*ours(data["ids_in"])[1:], data["final"].flatten(1)], strict=True)
    ]
    if reuse:
        assert all(same)
        assert steps[-1].evaluations == 2 * (2 * 6 - 1)  # the first step has no guidance
    else:
        assert same[:2] == [True, True]  # until features would be reused
        assert not all(same)


def test_names_map_there_and_back():
    published = vectors("enat_weights")
    back = write_enat(read_enat(published, encoder_depth=3))
    assert back.keys() == published.keys()
    for name in back:
        if not name.startswith("prev_embedder.") and name != "mlm_layer.bias":
            assert torch.equal(back[name], published[name]), name
