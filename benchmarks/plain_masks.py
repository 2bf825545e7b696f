"""4M's masking sample by sample, as its loader does it: what `DirichletMask` is compared with."""

import numpy as np
import torch
from torch.distributions import Dirichlet


class PlainMasks:
    """Which tokens of one sample are known and which asked, of each modality."""

    def __init__(self, modalities, components, known, asked):
        self.modalities, self.components, self.known, self.asked = modalities, components, known, asked
        self.draw = np.random.default_rng(0)

    def __call__(self, row, data):
        """`{modality: (tensor, input mask, target mask)}`; masks are true where a token is not used."""
        component = self.components[self.draw.integers(len(self.components))]
        length = np.array([data[m.name].length[row] for m in self.modalities])
        is_grid = np.array([m.kind != "sequence" for m in self.modalities])
        known = self.budget(component.known, np.ones(len(length)), self.known, length)
        left = np.where(is_grid, length - known, length)
        asked = self.budget(component.asked, [m.vocab_size is not None for m in self.modalities], self.asked, left)
        found = {}
        for number, modality in enumerate(self.modalities):
            mine = data[modality.name].ids[row, : length[number]], known[number], asked[number]
            found[modality.name] = self.spans(modality, *mine) if modality.sentinels else self.random(*mine)
        return found

    def budget(self, alpha, allowed, total, most):
        """floor(p * total), and what is left by the largest of further draws; never more than there are."""
        alphas = torch.tensor(np.where(allowed, alpha, 1e-9), dtype=torch.float32)
        law = Dirichlet(alphas)
        counts = (law.sample() * total).floor().int().numpy()
        for _ in range(total - int(counts.sum())):
            counts[law.sample().argmax()] += 1
        return np.minimum(counts, most)

    def random(self, ids, known, asked):
        noise = torch.rand(len(ids))
        order = noise.argsort()
        mask = torch.ones(2, len(ids), dtype=torch.bool)
        mask[0, order[:known]], mask[1, order[known : known + asked]] = False, False
        return torch.tensor(ids), mask[0], mask[1]

    def spans(self, modality, ids, known, asked):
        """Runs that are left out become sentinels, and the answer."""
        words, share = ids.tolist(), self.draw.random()
        first = modality.sentinels[0]
        while True:
            keep = [self.draw.random() < share and known > 0 for _ in words]
            given, answer, number = [], [], 0
            for place, word in enumerate(words):
                if keep[place]:
                    given.append(word)
                    continue
                if place == 0 or keep[place - 1]:
                    given.append(first + number)
                    answer.append(first + number)
                    number += 1
                answer.append(word)
            if len(given) <= known or known == 0:
                break
            share *= 0.9
        given = given if known else []
        answer.append(first + number)
        if len(answer) > asked:
            starts = [place for place, word in enumerate(answer) if first <= word < modality.sentinels[1]]
            start = starts[self.draw.integers(len(starts))]
            answer = answer[start : start + asked]
        size = max(modality.length, len(given) + len(answer))
        tensor, mask = torch.zeros(size, dtype=torch.long), torch.ones(2, size, dtype=torch.bool)
        tensor[: len(given) + len(answer)] = torch.tensor(given + answer)
        mask[0, : len(given)], mask[1, len(given) : len(given) + len(answer)] = False, False
        return tensor, mask[0], mask[1]
