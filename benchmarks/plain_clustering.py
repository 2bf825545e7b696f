"""Semi-supervised k-means with the costs of the published code of the GCD paper, in torch.

It forms the tensor (rows, K, D) in blocks of 1024 rows, and its seeding computes all distances again for each new
centre. What it computes is what `tests/parity/test_ss_kmeans.py` checks against the outputs of that code.
"""

import time

import torch


def distances(rows, centres, batch=1024):
    """Squared distances `(N, K)`, a block of rows at a time."""
    return torch.cat([((part[:, None] - centres[None]) ** 2).sum(-1) for part in rows.split(batch)])


class PlainKMeans:
    """`seconds`: of each new centre of the seeding, with how many there were; and of each iteration."""

    def __init__(self, k, seed):
        self.k, self.draws = k, torch.Generator().manual_seed(seed)
        self.seeding_seconds, self.iteration_seconds = [], []

    def seed(self, labelled, labels, unlabelled, new=None):
        """Class means, then one draw by squared distance a centre; all of `k`, or only `new` more."""
        centres = torch.stack([labelled[labels == label].mean(0) for label in labels.unique()])
        while len(centres) < self.k and (new is None or len(self.seeding_seconds) < new):
            start = time.process_time()
            closest = distances(unlabelled, centres).amin(1)
            row = (closest.cumsum(0) / closest.sum() >= torch.rand(1, generator=self.draws)).nonzero()[0, 0]
            centres = torch.cat([centres, unlabelled[row][None]])
            self.seeding_seconds.append((len(centres) - 1, time.process_time() - start))
        return centres

    def iterate(self, labelled, labels, unlabelled, centres, iterations=200):
        """(inertia, assignment of the unlabelled rows, iterations) from centres."""
        classes = torch.searchsorted(labels.unique(), labels)
        rows = torch.cat([labelled, unlabelled])
        for _ in range(iterations):
            start = time.process_time()
            gaps = distances(unlabelled, centres)
            nearest, found = gaps.min(1)
            inertia = nearest.sum() + ((labelled - centres[classes]) ** 2).sum()
            members = torch.cat([classes, found])
            before, centres = centres, torch.stack([rows[members == c].mean(0) for c in range(len(centres))])
            self.iteration_seconds.append(time.process_time() - start)
            if (centres - before).norm(dim=1).sum() ** 2 < 1e-4:
                break
        return float(inertia), found.numpy()
