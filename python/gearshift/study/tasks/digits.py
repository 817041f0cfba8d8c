"""Handwritten digits: a perceptron with one hidden layer under plain SGD.

The smallest use case: a step computes for a fraction of a millisecond, so what strategies cost is
latency. The split is by chance, and always the same: in the file, digits of one writer follow each
other, so these are other digits of the same people.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gearshift.torch as gst
from gearshift.data.digits import BRIGHTEST, CLASSES, COUNT, IMAGE_SIZE, load

from ._order import Order

TITLE = "Handwritten digits, perceptron"
BATCH = 16
SAMPLES = 80_000
METRIC = "accuracy on 600 test images"
TARGET = 0.97
FORWARD, BACKWARD, OPTIMIZER = "62 us", "103 us", "50 us"

TEST = 600
HIDDEN = 128

RATE = 0.1


def training() -> gst.SimulatedTraining:
    """What is trained.

    Raises:
        DatasetError: when the data is missing; it says what to install.
    """
    data = load()
    pixels = torch.from_numpy(data.images).flatten(1).float().div_(BRIGHTEST)
    labels = torch.from_numpy(data.labels).long()
    mixed = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    test, train = mixed[:TEST], mixed[TEST:]
    order = Order(len(train), BATCH)
    model = nn.Sequential(
        nn.Linear(IMAGE_SIZE * IMAGE_SIZE, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)
    )

    def batch(worker: int, step: int, workers: int) -> tuple[Tensor, Tensor]:
        chosen = train[order.chosen(worker, step, workers)]
        return pixels[chosen], labels[chosen]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1])

    def evaluate(model: nn.Module) -> float:
        """Accuracy on images that are not learnt from."""
        return float((model(pixels[test]).argmax(1) == labels[test]).float().mean())

    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    return gst.SimulatedTraining(model, optimizer, loss, batch, evaluate)
