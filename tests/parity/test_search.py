"""The published search of a strategy: the same gradients and the same way."""

import numpy as np
from nat_reference import vectors

from mmmask.synthesis.search import FiniteDifferences, beginning


def test_four_updates_are_those_of_the_published_search():
    recorded = {name: value.double().numpy() for name, value in vectors("autonat_search").items()}

    def worth(p):
        return 5 + (recorded["weight"] * (p - recorded["target"]) ** 2).sum() + 0.3 * p[0] * p[-1]

    search = FiniteDifferences()
    search.start(beginning(4), seed=0)
    for number in range(5):
        np.testing.assert_allclose(search.strategy, recorded["traj"][number], rtol=1e-5, atol=1e-6)
        asked = search.ask()
        assert len(asked) == 15
        np.testing.assert_allclose(worth(asked[0]), recorded["fid"][number], rtol=1e-5)
        search.tell([worth(strategy) for strategy in asked])
        if number < 4:
            np.testing.assert_allclose(search.gradient, recorded["grads"][number], rtol=1e-4, atol=1e-5)
