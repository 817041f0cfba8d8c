"""The training script of ``gearshift demo``: a CNN on Fashion-MNIST under a given strategy.

An ordinary PyTorch script with gearshift's handful of lines; the rest records what it measures.
Start it with ``gearshift run -n 4 -m gearshift.demo.train --strategy all_reduce``, or alone.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, TensorDataset

import gearshift as gs
import gearshift.torch as gst
from gearshift.data import fashion_mnist
from gearshift.strategy import Policy, Strategy

from . import STRATEGIES, events
from .model import build_model
from .run_folder import WEIGHTS, RunFolder

PLATEAU_WINDOW, PLATEAU_THRESHOLD = 2, 0.15
"""When the demo switches: once two epochs in a row lower the loss by less than 15 % on average."""

_PLATEAU_EPOCHS = 8
"""A shorter run may see no plateau: it switches half-way."""

_PIXEL_MEAN, _PIXEL_DEVIATION = 0.2860 * 255, 0.3530 * 255
_EVALUATION_BATCH = 500


def parse_arguments() -> argparse.Namespace:
    """The command line of the script."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategy", choices=STRATEGIES, default="all_reduce")
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--batch", type=int, default=32, help="samples per worker and step")
    parser.add_argument("--rate", type=float, default=0.05, help="learning rate")
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, help="use only the first N training images")
    parser.add_argument("--log-every", type=int, default=20, help="steps between logged steps")
    parser.add_argument("--data", type=Path, help="folder of the IDX files")
    parser.add_argument("--out", type=Path, default=Path("runs/train"))
    return parser.parse_args()


def make_strategy(name: str, epochs: int, total_steps: int) -> Strategy:
    """The strategy of a name in STRATEGIES."""
    server = gs.ParameterServer(consistency=gs.ASP())
    if name == "all_reduce":
        return gs.AllReduce()
    if name == "parameter_server":
        return server
    policy: Policy = gs.At(step=max(1, total_steps // 2))
    if epochs >= _PLATEAU_EPOCHS:
        policy = gs.LossPlateau(window=PLATEAU_WINDOW, threshold=PLATEAU_THRESHOLD)
    return gs.StrategySwitch(start=gs.AllReduce(), then=server, policy=policy)


def load_tensors(split: str, folder: Path | None, limit: int | None) -> TensorDataset:
    """Images as bytes (they are scaled batch by batch) and labels."""
    data = fashion_mnist.load("train" if split == "train" else "test", folder)
    images = torch.from_numpy(data.images[:limit]).unsqueeze(1)
    return TensorDataset(images, torch.from_numpy(data.labels[:limit]).long())


def scaled(images: torch.Tensor) -> torch.Tensor:
    """Pixels with mean 0 and standard deviation 1."""
    return (images.float() - _PIXEL_MEAN) / _PIXEL_DEVIATION


@dataclass
class Recorder:
    """Measures a run and writes it down; only rank 0 has a folder."""

    name: str
    epochs: int
    log_every: int
    model: nn.Module
    folder: RunFolder | None
    started: float = field(default_factory=time.perf_counter)
    train_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    step: int = 0
    samples: int = 0
    epoch: int = 0
    _losses: list[float] = field(default_factory=list)
    _since: tuple[int, float] = (0, 0.0)

    def begin_epoch(self, epoch: int) -> None:
        """Start the clock of the training part of an epoch (from 1)."""
        self.epoch = epoch
        self._since = (self.samples, time.perf_counter())

    def record_step(self, loss: float, samples: int) -> None:
        """Count a step; write down every `log_every`-th."""
        self.step += 1
        self.samples += samples
        self._losses.append(loss)
        if self.step % self.log_every == 0 and self.folder is not None:
            self._log_step()

    def _log_step(self) -> None:
        now = time.perf_counter()
        samples, since = self._since
        # What rank 0 measures, times the workers: exact when they go in step.
        rate = (self.samples - samples) * gs.world_size() / (now - since)
        self._since = (self.samples, now)
        loss = float(np.mean(self._losses))
        self._losses.clear()
        self._emit(loss, rate, None, {})

    def record_epoch(self, train_loss: float, rate: float, test: tuple[float, float]) -> None:
        """Write down the result of an epoch, the same on all ranks."""
        accuracy, test_loss = test
        if self.folder is not None:
            self._emit(
                train_loss, rate, accuracy, {"test_accuracy": accuracy, "test_loss": test_loss}
            )

    def _emit(
        self, loss: float, rate: float, accuracy: float | None, more: dict[str, float]
    ) -> None:
        assert self.folder is not None
        progress = events.Progress(
            strategy=str(gst.stats(self.model)["strategy"]),
            epoch=self.epoch,
            epochs=self.epochs,
            step=self.step,
            loss=loss,
            samples_per_second=rate,
            seconds=time.perf_counter() - self.started,
            test_accuracy=accuracy,
        )
        row = {
            "time": progress.seconds,
            "epoch": self.epoch,
            "step": self.step,
            "loss": loss,
            "samples_per_second": rate,
            "strategy": progress.strategy,
        }
        self.folder.add_metrics({**row, **more})
        for_demo = os.environ.get(events.ENVIRONMENT) == "1"
        print(progress.encode() if for_demo else progress.text(), flush=True)


def train_epoch(
    model: nn.Module, optimizer: Any, loader: Any, recorder: Recorder
) -> tuple[float, int, float]:
    """One pass over this rank's share: sum of losses, samples, seconds."""
    model.train()
    loss_sum, samples_before = 0.0, recorder.samples
    began = time.perf_counter()
    for images, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(scaled(images)), labels)
        loss.backward()
        optimizer.step(loss=loss)
        value = float(loss.detach())
        loss_sum += value * len(labels)
        recorder.record_step(value, len(labels))
    seconds = time.perf_counter() - began
    recorder.train_seconds += seconds
    return loss_sum, recorder.samples - samples_before, seconds


@torch.no_grad()
def evaluate(model: nn.Module, test_set: TensorDataset) -> tuple[float, float]:
    """Accuracy and mean loss on the test set; each rank takes its share of it."""
    model.eval()
    images, labels = (t[gs.rank() :: gs.world_size()] for t in test_set.tensors)
    sums = np.zeros(3)
    for start in range(0, len(labels), _EVALUATION_BATCH):
        batch = slice(start, start + _EVALUATION_BATCH)
        scores = model(scaled(images[batch]))
        loss = nn.functional.cross_entropy(scores, labels[batch], reduction="sum")
        correct = (scores.argmax(1) == labels[batch]).sum()
        sums += (float(correct), float(loss), len(labels[batch]))
    gs.all_reduce(sums, op="sum")
    return float(sums[0] / sums[2]), float(sums[1] / sums[2])


def reduced(values: list[float], op: Literal["sum", "max"]) -> list[float]:
    """Numbers of all ranks, combined."""
    array = np.array(values, dtype=np.float64)
    gs.all_reduce(array, op=op)
    return [float(value) for value in array]


def summarize(recorder: Recorder, test: tuple[float, float]) -> dict[str, Any]:
    """What the run measured, over all ranks."""
    stats = gst.stats(recorder.model)
    workers = gs.world_size()
    samples, sent, staleness = reduced(
        [recorder.samples, stats["bytes_sent"], stats["mean_staleness"]], "sum"
    )
    train_seconds, evaluation_seconds, seconds, max_staleness = reduced(
        [
            recorder.train_seconds,
            recorder.evaluation_seconds,
            time.perf_counter() - recorder.started,
            stats["max_staleness"],
        ],
        "max",
    )
    switches = [dict(switch) for switch in stats["switches"]]
    return {
        "strategy": recorder.name,
        "workers": workers,
        "test_accuracy": test[0],
        "test_loss": test[1],
        "seconds": seconds,
        "train_seconds": train_seconds,
        "evaluation_seconds": evaluation_seconds,
        "steps": recorder.step,
        "samples": int(samples),
        "samples_per_second": samples / train_seconds,
        "samples_per_second_with_evaluation": samples / seconds,
        "bytes_sent_per_worker": sent / workers,
        "mean_staleness": staleness / workers,
        "max_staleness": int(max_staleness),
        "switches": switches,
        "switch_step": switches[0]["step"] if switches else None,
        "switch_seconds": switches[0]["seconds"] if switches else None,
    }


def describe(arguments: argparse.Namespace, model: nn.Module, strategy: Strategy) -> dict[str, Any]:
    """The contents of config.toml."""
    plain = {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()}
    config: dict[str, Any] = {
        **plain,
        "strategy_settings": repr(strategy),
        "workers": gs.world_size(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    config["versions"] = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }
    return config


def train(arguments: argparse.Namespace) -> None:
    """Train, evaluate after each epoch, and leave a run folder."""
    torch.manual_seed(arguments.seed)
    train_set = load_tensors("train", arguments.data, arguments.limit)
    test_set = load_tensors("test", arguments.data, None)
    model = build_model()
    optimizer: torch.optim.Optimizer = torch.optim.SGD(
        model.parameters(), lr=arguments.rate, momentum=arguments.momentum
    )
    sampler = gst.DistributedSampler(train_set)
    batches = BatchSampler(sampler, arguments.batch, drop_last=False)
    loader = DataLoader(train_set, sampler=batches, batch_size=None)
    total_steps = arguments.epochs * len(batches)
    strategy = make_strategy(arguments.strategy, arguments.epochs, total_steps)
    model, optimizer = gst.distribute(model, optimizer, strategy=strategy)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, arguments.epochs)

    folder = RunFolder(arguments.out) if gs.rank() == 0 else None
    if folder is not None:
        folder.write_config(describe(arguments, model, strategy))
    gs.barrier()
    recorder = Recorder(arguments.strategy, arguments.epochs, arguments.log_every, model, folder)
    test = (0.0, 0.0)
    for epoch in range(arguments.epochs):
        sampler.set_epoch(epoch)
        recorder.begin_epoch(epoch + 1)
        loss_sum, samples, seconds = train_epoch(model, optimizer, loader, recorder)
        schedule.step()
        began = time.perf_counter()
        all_loss, all_samples = reduced([loss_sum, samples], "sum")
        (longest,) = reduced([seconds], "max")
        test = evaluate(model, test_set)
        recorder.evaluation_seconds += time.perf_counter() - began
        recorder.record_epoch(all_loss / all_samples, all_samples / longest, test)

    result = summarize(recorder, test)
    if folder is not None:
        save(folder, model, result)


def save(folder: RunFolder, model: nn.Module, result: dict[str, Any]) -> None:
    """Write weights, decisions and, last, the result."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(state, folder.path / WEIGHTS)
    if result["switches"]:
        folder.write_decisions(result["switches"])
    folder.write_result(result)


def main() -> None:
    """Entry point; ends with a non-zero code and one line when the data set is missing."""
    arguments = parse_arguments()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    gs.init()
    try:
        train(arguments)
    except fashion_mnist.DatasetError as error:
        sys.exit(f"gearshift demo: {error}")
    gs.shutdown()


if __name__ == "__main__":
    main()
