"""A plain baseline of what pictures tell: histograms of gradients (Dalal, Triggs 2005) and logistic regression."""

import torch
import torch.nn.functional as F

BINS, CELL = 9, 8


def hog(pictures):
    """Features (N, D) of pictures (N, C, H, W) in 0..1: of cells of 8x8 pixels, each 2x2 of them made equally long."""
    grey = F.pad(pictures.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    dx, dy = grey[:, 0, 1:-1, 2:] - grey[:, 0, 1:-1, :-2], grey[:, 0, 2:, 1:-1] - grey[:, 0, :-2, 1:-1]
    angle = torch.atan2(dy, dx).remainder(torch.pi) / torch.pi * BINS
    low = angle.floor()
    share, steepness = angle - low, (dx.square() + dy.square()).sqrt()
    votes = F.one_hot(low.long() % BINS, BINS) * ((1 - share) * steepness)[..., None]
    votes = votes + F.one_hot((low.long() + 1) % BINS, BINS) * (share * steepness)[..., None]
    cells = F.avg_pool2d(votes.permute(0, 3, 1, 2), CELL)  # (N, 9, H/8, W/8)
    blocks = F.unfold(cells, 2)  # (N, 36, blocks)
    return F.normalize(blocks, dim=1).flatten(1)


def logistic_regression(features, labels, test_features, decay=1e-3, steps=200):
    """Labels that are predicted for the test features."""
    mean, spread = features.mean(0), features.std(0) + 1e-3
    x, x_test = (features - mean) / spread, (test_features - mean) / spread
    weights = torch.zeros(x.shape[1] + 1, int(labels.max()) + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=steps, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        found = F.cross_entropy(x @ weights[:-1] + weights[-1], labels) + decay * weights[:-1].square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    return (x_test @ weights[:-1] + weights[-1]).argmax(1).detach()
