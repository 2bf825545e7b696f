"""AdaNAT's discriminator: a head and the vector of the class."""

import torch
from nat_reference import vectors
from torch.testing import assert_close

from mmmask.heads import ClassVector, Realness

LAYERS = {"out": "cls", "first.0": "main.0.0", "second.0": "main.1.fn.0"}
NORMS = {"first.1": "main.0.1", "second.1": "main.1.fn.1"}


def test_the_head_and_the_vector_of_a_class():
    data = vectors("adanat_disc_head")
    vector = ClassVector(10, 8)
    fully = [(data[f"mapping.fc{i}.weight"], data[f"mapping.fc{i}.bias"]) for i in range(8)]
    vector.load_state_dict(
        {
            "embed": data["mapping.embed.weight"].T,
            "embed_bias": data["mapping.embed.bias"],
            "weights": torch.stack([weight for weight, _ in fully]),
            "biases": torch.stack([bias for _, bias in fully]),
        }
    )
    classes = data["onehot"].argmax(1)
    assert_close(vector(classes), data["w"], rtol=1e-4, atol=1e-5)
    state = {"condition.weight": data["head.cmapper.weight"], "condition.bias": data["head.cmapper.bias"]}
    for ours, theirs in LAYERS.items():
        state[f"{ours}.bias"] = data[f"head.{theirs}.bias"]
        spectral = f"{ours}.parametrizations.weight"
        state[f"{spectral}.original"] = data[f"head.{theirs}.weight_orig"]
        state |= {
            f"{spectral}.0._u": data[f"head.{theirs}.weight_u"],
            f"{spectral}.0._v": data[f"head.{theirs}.weight_v"],
        }
    for ours, theirs in NORMS.items():
        state |= {f"{ours}.{kind}": data[f"head.{theirs}.{kind}"] for kind in ("weight", "bias")}
    head = Realness(16, 8, 8)
    head.load_state_dict(state)
    with torch.no_grad():
        assert_close(head.eval()(data["x"], data["w"]), data["out"][:, 0], rtol=1e-4, atol=1e-5)


def test_any_number_of_images_is_judged_in_groups_of_about_eight():
    """Thirteen are seven and six: what is said of the seven does not depend on the six."""
    torch.manual_seed(0)
    head, vector = Realness(6, 8, 4).eval(), ClassVector(3, 8)
    features, classes = torch.randn(13, 6, 5), vector(torch.arange(13) % 3)
    together = head(features, classes)
    assert_close(together[:7], head(features[:7], classes[:7]))
    assert_close(together[7:], head(features[7:], classes[7:]))
    assert not torch.allclose(together[:6], head(features[:6], classes[:6]), atol=1e-3)
