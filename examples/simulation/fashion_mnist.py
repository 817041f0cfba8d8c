"""Fashion-MNIST for ``gearshift simulate --train``: the demo's CNN on a part of the data.

    gearshift simulate --cluster examples/clusters/four-hosts-1g.toml \\
        --workload examples/workloads/fashion-mnist-cnn.toml \\
        --strategy all_reduce --strategy ps:asp --train examples/simulation/fashion_mnist.py

The workload says what a step costs on the simulated machines; what is learnt in it is here. A step
of the real computation takes a few milliseconds per worker.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import gearshift.torch as gst
from gearshift.data.fashion_mnist import load
from gearshift.demo.model import build_model

TRAIN, TEST = 12_000, 1_000
"""Images that are used."""
BATCH = 32
"""Per worker; as in the workload."""


def training() -> gst.SimulatedTraining:
    """What the simulator learns."""
    images, labels = _tensors("train", TRAIN)
    test_images, test_labels = _tensors("test", TEST)
    model = build_model()

    def batch(worker: int, step: int, workers: int) -> tuple[Tensor, Tensor]:
        """Each epoch in another order; a step takes the next images for each worker."""
        epoch, place = divmod(((step - 1) * workers + worker) * BATCH, TRAIN)
        order = torch.randperm(TRAIN, generator=torch.Generator().manual_seed(epoch))
        chosen = order[place : place + BATCH]
        return images[chosen], labels[chosen]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(model(batch[0]), batch[1])

    def evaluate(model: nn.Module) -> float:
        """Accuracy on images that are not learnt from."""
        return float((model(test_images).argmax(1) == test_labels).float().mean())

    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return gst.SimulatedTraining(model, optimizer, loss, batch, evaluate)


def _tensors(split: Any, count: int) -> tuple[Tensor, Tensor]:
    """The first images and labels of a half of the data set."""
    data = load(split)
    images = torch.from_numpy(data.images[:count]).float().div_(255).unsqueeze_(1)
    return images, torch.from_numpy(data.labels[:count]).long()
