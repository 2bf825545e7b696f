"""4M's schedules are those that its recorded generations used."""

import json
from pathlib import Path

import numpy as np
import pytest

from mmmask.errors import UserError
from mmmask.synthesis import FourMSchedule

TOLD = json.loads((Path(__file__).parents[1] / "fixtures" / "fourm" / "generate.json").read_text())["runs"]
SCHEDULES = {
    "maskgit": FourMSchedule(16, 5, "cosine", 1.0, "linear"),
    "maskgit_guided": FourMSchedule(16, 4, "linear", 0.8),
    "roar": FourMSchedule(16, 6, "linear", 1.2, "steep", 0.5, 0.5),
    "roar_guided": FourMSchedule(16, 4, "linear", 1.0),
}


@pytest.mark.parametrize("run", SCHEDULES)
def test_tokens_and_temperatures(run):
    schedule = SCHEDULES[run]
    assert np.diff(schedule.counts(16)).tolist() == [-n for n in TOLD[run]["tokens"]]
    np.testing.assert_allclose([step.temperature for step in schedule.steps], TOLD[run]["temperature"], rtol=1e-6)


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_any_number_of_tokens_is_decoded(shape):
    for steps in (1, 7, 49):
        counts = FourMSchedule(196, steps, shape).counts(196)
        assert len(counts) == steps + 1
        assert (counts[0], counts[-1]) == (196, 0)
        assert counts == sorted(counts, reverse=True)
        few = FourMSchedule(196, steps, shape).counts(10)  # the others were given
        assert (few[0], few[-1]) == (10, 0)
        assert few == sorted(few, reverse=True)


def test_what_does_not_fit_is_told():
    with pytest.raises(UserError, match="20 steps for 16 tokens; give from 1 to 16"):
        FourMSchedule(16, 20)
    with pytest.raises(UserError, match="choose cosine or linear"):
        FourMSchedule(16, 4, "sine")
    with pytest.raises(UserError, match="temperature 0.2 would rise to least; give 0.5 or more"):
        FourMSchedule(16, 4, temperature=0.2, decay="steep")
