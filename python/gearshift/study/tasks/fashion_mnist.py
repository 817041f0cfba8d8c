"""Fashion-MNIST: the demo's convolutional network under SGD with momentum."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gearshift.torch as gst
from gearshift.data.fashion_mnist import load
from gearshift.demo.model import build_model

from ._order import Order

TITLE = "Fashion-MNIST, CNN"
BATCH = 32
SAMPLES = 64_000
METRIC = "accuracy on 2,000 test images"
TARGET = 0.86
FORWARD, BACKWARD, OPTIMIZER = "3.3 ms", "2.5 ms", "190 us"

TRAIN, TEST = 12_000, 2_000
"""Images that are used: a pass is long enough to look at, and short enough to have several."""

RATE = 0.03


def training() -> gst.SimulatedTraining:
    """What is trained.

    Raises:
        DatasetError: when the data is missing; it says what to install.
    """
    images, labels = _tensors("train", TRAIN)
    test_images, test_labels = _tensors("test", TEST)
    order = Order(TRAIN, BATCH)
    model = build_model()

    def batch(worker: int, step: int, workers: int) -> tuple[Tensor, Tensor]:
        chosen = order.chosen(worker, step, workers)
        return images[chosen], labels[chosen]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1])

    def evaluate(model: nn.Module) -> float:
        """Accuracy on images that are not learnt from."""
        found = torch.cat([model(part).argmax(1) for part in test_images.split(500)])
        return float((found == test_labels).float().mean())

    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    return gst.SimulatedTraining(model, optimizer, loss, batch, evaluate)


def _tensors(split: Literal["train", "test"], count: int) -> tuple[Tensor, Tensor]:
    """The first images and labels of a half of the data set."""
    data = load(split)
    images = torch.from_numpy(data.images[:count]).float().div_(255).unsqueeze_(1)
    return images, torch.from_numpy(data.labels[:count]).long()
