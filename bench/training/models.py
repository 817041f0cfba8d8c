"""The models whose training steps are measured, with batches for them.

All are deterministic: every process that builds one gets the same parameters, and a rank's batch of
a step depends on the two alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from gearshift.demo.model import build_model

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Workload:
    """A model, and what it is trained on."""

    build: Callable[[], nn.Module]
    batch: Callable[[torch.Generator], Batch]
    loss: Callable[[Tensor, Tensor], Tensor]
    lr: float

    def make_model(self) -> nn.Module:
        """The same model in every process."""
        torch.manual_seed(0)
        return self.build().train()

    def make_batch(self, rank: int, step: int) -> Batch:
        """A rank's batch."""
        return self.batch(torch.Generator().manual_seed(step * 1009 + rank))


def mlp() -> nn.Module:
    """10,013,706 parameters in four dense layers."""
    return nn.Sequential(
        nn.Linear(784, 2048),
        nn.ReLU(),
        nn.Linear(2048, 2048),
        nn.ReLU(),
        nn.Linear(2048, 2048),
        nn.ReLU(),
        nn.Linear(2048, 10),
    )


class _Block(nn.Module):
    def __init__(self, planes_in: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(planes_in, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or planes_in != planes:
            projection = nn.Conv2d(planes_in, planes, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(planes))

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self.shortcut(x))


def resnet18() -> nn.Module:
    """ResNet-18 for 1000 classes, 11,689,512 parameters (He et al., CVPR 2016)."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    planes_in = 64
    for planes, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [_Block(planes_in, planes, stride), _Block(planes, planes, 1)]
        planes_in = planes
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return nn.Sequential(*layers)


class Transformer(nn.Module):
    """A language model over bytes: eight pre-norm encoder layers, 10,043,136 parameters."""

    VOCABULARY = 256
    LENGTH = 32
    WIDTH = 320

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(self.VOCABULARY, self.WIDTH)
        self.positions = nn.Parameter(torch.randn(self.LENGTH, self.WIDTH) * 0.02)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                self.WIDTH, 8, 4 * self.WIDTH, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(8)
        )
        self.norm = nn.LayerNorm(self.WIDTH)
        self.head = nn.Linear(self.WIDTH, self.VOCABULARY)
        mask = nn.Transformer.generate_square_subsequent_mask(self.LENGTH)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x) + self.positions
        for layer in self.layers:
            x = layer(x, src_mask=self.mask)
        return self.head(self.norm(x))


def _tiny() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 4))


def _examples(shape: tuple[int, ...], classes: int) -> Callable[[torch.Generator], Batch]:
    def make(generator: torch.Generator) -> Batch:
        x = torch.randn(shape, generator=generator)
        return x, torch.randint(classes, shape[:1], generator=generator)

    return make


def _text(generator: torch.Generator) -> Batch:
    shape = (2, Transformer.LENGTH + 1)
    tokens = torch.randint(Transformer.VOCABULARY, shape, generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def _token_loss(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output.flatten(0, 1), target.flatten())


WORKLOADS = {
    "mlp": Workload(mlp, _examples((8, 784), 10), functional.cross_entropy, 0.02),
    "cnn": Workload(build_model, _examples((16, 1, 28, 28), 10), functional.cross_entropy, 0.05),
    "resnet18": Workload(
        resnet18, _examples((8, 3, 64, 64), 1000), functional.cross_entropy, 0.005
    ),
    "transformer": Workload(Transformer, _text, _token_loss, 0.02),
    "tiny": Workload(_tiny, _examples((8, 8), 4), functional.cross_entropy, 0.05),
}
"""By name. Batches are small, so that communication matters."""
