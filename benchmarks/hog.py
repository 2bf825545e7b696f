"""A plain baseline of what pictures tell: histograms of gradients (Dalal, Triggs 2005) and logistic regression."""

import torch
import torch.nn.functional as F

from mmmask.discovery.picture_features import hog

__all__ = ["hog", "logistic_regression"]


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
