"""Small models, data and optimizers, and the one process that distributed training must equal."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

import gearshift as gs

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
MakeOptimizer = Callable[[object], torch.optim.Optimizer]

BATCH = 4


class MLP(nn.Sequential):
    """On 6 numbers, 3 classes."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)
        )


class Wide(nn.Sequential):
    """As MLP, with so many parameters that processes of one host lend them instead of copying."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 400), nn.Tanh(), nn.Linear(400, 40), nn.Linear(40, 3))


class CNN(nn.Sequential):
    """On 6 x 6 pixels of one channel, 3 classes."""

    def __init__(self) -> None:
        super().__init__(
            nn.Unflatten(1, (1, 6)),
            nn.Conv2d(1, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(54, 3),
        )


class Transformer(nn.Module):
    """On 6 tokens of 6 numbers, 3 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.zeros(6, 6))
        # No biases: the gradient of the keys' is zero but for rounding, which Adam blows up.
        self.layer = nn.TransformerEncoderLayer(6, 2, 12, 0.0, batch_first=True, bias=False)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x + self.position).mean(1))


MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": MLP, "cnn": CNN, "transformer": Transformer}

OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=3e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=0.05),
}


def make(model: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A model of MODELS, or "wide"; the same on all ranks."""
    torch.manual_seed(7)
    return (Wide if model == "wide" else MODELS[model])().to(dtype)


def batches(
    steps: int, model: str = "mlp", batch: int = BATCH, dtype: torch.dtype = torch.float64
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each step the batch of *all* ranks: `batch` samples each. The same on all ranks."""
    generator = torch.Generator().manual_seed(11)
    shape = {"mlp": (6,), "wide": (6,), "cnn": (6, 6), "transformer": (6, 6)}[model]
    for _ in range(steps):
        n = batch * gs.world_size()
        x = torch.randn(n, *shape, generator=generator, dtype=torch.float64).to(dtype)
        yield x, torch.randint(0, 3, (n,), generator=generator)


def share(tensor: Tensor) -> Tensor:
    """This rank's part of a batch of all ranks."""
    return tensor.chunk(gs.world_size())[gs.rank()] if gs.world_size() > 1 else tensor


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The loss of everything here."""
    return nn.functional.cross_entropy(model(x), y)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Iterator[tuple[Tensor, Tensor]],
    *,
    alone: bool = False,
    before_step: Callable[[int], None] | None = None,
    after_step: Callable[[int], None] | None = None,
) -> None:
    """An ordinary training loop: on this rank's share, or, `alone`, on everything."""
    for step, (x, y) in enumerate(data, 1):
        loss = cross_entropy(model, x if alone else share(x), y if alone else share(y))
        optimizer.zero_grad()
        loss.backward()
        if before_step is not None:
            before_step(step)
        if alone:
            optimizer.step()
        else:
            optimizer.step(loss=loss)  # type: ignore[call-arg]
        if after_step is not None:
            after_step(step)


def reference(
    model: nn.Module, optimizer: MakeOptimizer, run: Callable[[nn.Module, object], None]
) -> nn.Module:
    """A copy of `model` trained by `run(copy, its optimizer)` in this process alone."""
    alone = copy.deepcopy(model)
    run(alone, optimizer(alone.parameters()))
    return alone


def difference(model: nn.Module, other: nn.Module) -> float:
    """The largest relative difference of any parameter tensor, in the maximum norm."""
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return max(relative(a.detach(), b.detach()) for a, b in pairs)


def relative(a: Tensor, b: Tensor) -> float:
    """Relative difference in the maximum norm."""
    if a.numel() == 0:
        return 0.0
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))


def assert_equal_everywhere(model: nn.Module) -> None:
    """All ranks have the same bits in parameters and buffers. Collective."""
    for name, tensor in model.state_dict().items():
        mine = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().copy()
        first = gs.broadcast(mine.copy())
        same = gs.all_reduce(np.array([mine.tobytes() == first.tobytes()], dtype=np.int32), "min")
        assert same[0], f"{name} differs between ranks"
