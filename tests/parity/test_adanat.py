"""AdaNAT's policy, its decoding, and its update are those of the published code."""

import numpy as np
import pytest
import torch
from nat_reference import WORDS, RecordedNoise, ours, vectors
from torch.testing import assert_close

from mmmask.heads import PolicyHead
from mmmask.pretrained.adanat import NAMES, read_head, sizes
from mmmask.pretrained.nat import read_autonat
from mmmask.synthesis import AdaptiveSampler, ImageGenerator, Policy
from mmmask.synthesis.policy import rules_of_thumb
from mmmask.transformer import AutoNAT
from tasks import ppo


def test_the_network_at_its_published_size():
    head, data = PolicyHead(768, 4, 16), vectors("adanat_policy_fullsize")
    assert sum(p.numel() for p in head.parameters()) == 11_876_484
    shapes = {f"{NAMES[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": p.shape for n, p in head.named_parameters()}
    published = {}
    for i, name in enumerate(sorted(shapes)):
        scale = 1 / np.sqrt(shapes[name][1:].numel()) if len(shapes[name]) > 1 else 1 / 5
        flat = np.sin(np.arange(shapes[name].numel()) * (0.37 + 0.01 * i) + i) * scale
        published[name] = torch.from_numpy(flat).float().view(shapes[name])
    head.load_state_dict(read_head(published))
    features = torch.from_numpy(np.sin(0.7137 * np.arange(2 * 256 * 768))).float().view(2, 256, 768)
    assert_close(features[:, :2, :4], data["feat_corner"])
    with torch.no_grad():
        assert_close(head(features, data["timestep"]), data["out"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [4, 8])
def test_the_rules_of_thumb(steps):
    data, policy = vectors("schedules"), Policy(4, 16, steps, heuristic=True, hidden=8, narrow=2, wide=(4, 4))
    names = ("manual_gen_ratios", "manual_temp", "manual_samp_temp", "manual_cfg")
    assert_close(
        rules_of_thumb(steps).T, torch.stack([data[f"adanat_heu.{steps}.{n}.pre"] for n in names]), rtol=1e-4, atol=1e-5
    )
    decision = policy.decide(policy.aim(torch.zeros(steps, 4), torch.arange(steps)))
    for found, name in zip(decision, names, strict=True):
        assert_close(found, data[f"adanat_heu.{steps}.{name}.activated"], rtol=1e-4, atol=1e-6)


class Recorded(Policy):
    """Does what was recorded, whatever it sees, and keeps what it saw."""

    def __init__(self, actions):
        super().__init__(32, 256, len(actions), hidden=8, narrow=2, wide=(4, 4))
        self.actions, self.seen = actions, []

    def mean(self, features, step):
        self.seen.append(features)
        return self.actions[step[0]]


def test_decoding_by_the_recorded_actions():
    data = vectors("adanat_env")
    model = ImageGenerator(AutoNAT(WORDS, 256, 10, dim=32, depth=3, heads=4))
    model.load_state_dict(read_autonat(vectors("adanat_env_weights")))
    policy = Recorded(data["actions"])
    noise = RecordedNoise(data["cat_noise"], data["remask_noise"])
    found = list(AdaptiveSampler(policy).explore(model.eval(), data["context"][:, 0], noise, 0.0))
    for (decoded, looked), expected, activated in zip(
        found, [*ours(data["ids"])[1:], data["sampled_ids"][-1]], data["activated"], strict=True
    ):
        assert torch.equal(decoded.ids, expected)
        assert_close(torch.stack(looked.decision, 1), activated, rtol=1e-5, atol=1e-6)
    assert_close(policy.seen[1], data["feat_step1"], rtol=1e-4, atol=1e-5)


def test_sizes_are_read_from_the_weights():
    head = read_head(vectors("adanat_policy_weights"), "policy.actor.")
    found = sizes(head)
    assert found == {"channels": 32, "tokens": 256, "hidden": 24, "narrow": 4, "wide": [24, 16]}
    Policy(**found).actor.load_state_dict(head)


def test_five_updates_are_those_of_the_published_ppo():
    data, weights = vectors("adanat_ppo"), vectors("adanat_policy_weights")
    actor = PolicyHead(32, 4, 16, hidden=24, narrow=4, wide=(24, 16))
    critic = PolicyHead(32, 1, 16, hidden=24, narrow=4, wide=(24, 16))
    actor.load_state_dict(read_head(weights, "policy.actor."))
    critic.load_state_dict(read_head(weights, "policy.critic."))
    features, steps = data["feat"].flatten(0, 1), torch.arange(3).repeat_interleave(6)
    spread = 0.6
    with torch.no_grad():
        mean, values = actor(features, steps), critic(features, steps)[:, 0]
    assert_close(mean, data["action_mean"].flatten(0, 1), rtol=1e-4, atol=1e-5)
    assert_close(ppo.chances(data["actions"], mean, spread), data["old_logprobs"], rtol=1e-5, atol=1e-5)
    returns = ppo.normalised(data["raw_reward_last"].repeat(3))
    assert_close(returns, data["rewards_normalised"], rtol=1e-5, atol=1e-5)
    assert_close(returns - values, data["advantages"], rtol=1e-5, atol=1e-5)
    rollout = ppo.Rollout(features, steps, data["actions"], data["old_logprobs"], data["old_values"], returns)
    entropy = data["entropy"][0]  # of a fixed spread: a constant
    optimizer = torch.optim.Adam([*actor.parameters(), *critic.parameters()], lr=1e-3)
    networks = {"actor": actor, "critic": critic}
    for number in range(5):
        optimizer.zero_grad()
        found = ppo.accumulate(actor, critic, rollout, spread, 7, torch.device("cpu"))
        loss = found.policy + 0.5 * found.critic - 0.01 * entropy
        assert_close(loss, data["losses"][number], rtol=1e-5, atol=1e-5)
        if number == 0:
            compare(data, "grad.policy", networks, lambda parameter: parameter.grad)
        optimizer.step()
    compare(data, "final.policy", networks, lambda parameter: parameter.detach())
    with torch.no_grad():
        assert_close(actor(features, steps), data["new_action_mean"], rtol=1e-4, atol=1e-5)
        assert_close(critic(features, steps), data["new_values"], rtol=1e-4, atol=1e-5)


def compare(data, prefix, networks, value):
    for name in (name for name in data if name.startswith(prefix)):
        network, _, rest = name.removeprefix(f"{prefix}.").partition(".")
        layer, _, kind = rest.rpartition(".")
        ours = {theirs: own for own, theirs in NAMES.items()}[layer]
        found = value(networks[network].get_parameter(f"{ours}.{kind}"))
        assert_close(found, data[name], rtol=1e-4, atol=1e-5, msg=name)
