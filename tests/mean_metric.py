"""A metric for tests: the mean of a number of each image."""

from abc import abstractmethod

import torch

from tasks.image_metrics import ImageMetric


class MeanMetric(ImageMetric):
    def __init__(self):
        super().__init__()
        for name in ("total", "number"):
            self.add_state(name, torch.zeros(()), dist_reduce_fx="sum")

    @abstractmethod
    def of(self, images, given):
        """A number for each image `(B,)`."""

    def update(self, images, given):
        self.total += self.of(images, given).sum()
        self.number += len(images)

    def compute(self):
        return self.total / self.number
