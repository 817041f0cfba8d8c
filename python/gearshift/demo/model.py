"""The demo's network: two convolutions and two dense layers, 109,024 parameters."""

from __future__ import annotations

from torch import nn

from gearshift.data.fashion_mnist import CLASSES, IMAGE_SIZE


def build_model() -> nn.Module:
    """Takes (batch, 1, 28, 28), gives (batch, 10) scores."""
    side = IMAGE_SIZE // 4
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * side * side, 66),
        nn.ReLU(),
        nn.Linear(66, len(CLASSES)),
    )
