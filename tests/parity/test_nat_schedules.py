"""Schedules equal those of the published implementations."""

import pytest
import torch
from nat_reference import vectors
from torch.testing import assert_close

from mmmask.synthesis import AutoNATSchedule, CosineSchedule, ENATSchedule


@pytest.mark.parametrize(
    ("tokens", "steps", "temperature", "guidance"), [(256, 8, 6, 2.5), (1024, 8, 4, 3.5), (256, 4, 6, 2.5)]
)
def test_enat(tokens, steps, temperature, guidance):
    data, schedule = vectors("schedules"), ENATSchedule(steps, temperature, 1.5, guidance)
    columns = {"mask_ratio": "masked", "mask_temp": "remask", "samp_temp": "temperature", "cfg": "guidance"}
    for theirs, mine in columns.items():
        got = torch.tensor([getattr(step, mine) for step in schedule.steps])
        assert_close(got, data[f"enat.L{tokens}.S{steps}.{theirs}"], rtol=1e-6, atol=1e-6)
    assert schedule.counts(tokens)[:-1] == data[f"enat.L{tokens}.S{steps}.masked_in"].tolist()


def test_the_published_strategy_of_autonat():
    assert AutoNATSchedule().counts(256) == [256, 244, 225, 203, 190, 159, 104, 66, 0]


def test_the_cosine_of_maskgit():
    data = vectors("schedules")
    shares = torch.tensor([step.masked for step in CosineSchedule(20).steps])
    assert_close(shares, data["maskgit.cosine"], rtol=1e-5, atol=2e-6)  # clipped to 1e-6 there
