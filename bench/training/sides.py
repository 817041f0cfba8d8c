"""The ways of training that are compared, behind one interface."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer


class Side(Protocol):
    """One way of making a model train on several ranks. Everything but `stats` is collective."""

    rank: int
    size: int
    period: int
    """Steps from one averaging of parameters to the next; 1 where every step is that of all."""

    def wrap(self, model: nn.Module, optimizer: Optimizer) -> nn.Module:
        """The module to call from now on; the optimizer stays."""
        ...

    def barrier(self) -> None:
        """Wait for all ranks."""
        ...

    def mean(self, value: float) -> float:
        """Over the ranks."""
        ...

    def stats(self) -> dict[str, float]:
        """Running totals that a report shows the growth of."""
        ...

    def close(self) -> None:
        """Leave, as the last thing that the process does: it may end here."""
        ...


class Gearshift:
    """Ours: All-Reduce, local SGD, or a server with BSP, as the text of the strategy says."""

    def __init__(self, strategy: str) -> None:
        import gearshift as gs
        import gearshift.torch as gst

        gs.init()
        self.rank, self.size = gs.rank(), gs.world_size()
        self._gs, self._gst, self._strategy = gs, gst, strategy
        self._model: nn.Module | None = None
        parsed = gs.strategy.parse(strategy)
        self.period = parsed.every if isinstance(parsed, gs.LocalSGD) else 1

    def wrap(self, model: nn.Module, optimizer: Optimizer) -> nn.Module:
        self._model, _ = self._gst.distribute(model, optimizer, strategy=self._strategy)
        return model

    def barrier(self) -> None:
        self._gs.barrier()

    def mean(self, value: float) -> float:
        total = torch.tensor([value], dtype=torch.float64)
        return float(self._gs.all_reduce(total)[0]) / self.size

    def stats(self) -> dict[str, float]:
        assert self._model is not None
        stats = self._gst.stats(self._model)
        names = ("communication_seconds", "exposed_seconds", "bytes_sent")
        return {name: stats[name] for name in names}

    def close(self) -> None:
        self._gs.shutdown()


class Ddp:
    """PyTorch's DistributedDataParallel over Gloo or ours, gradients as views of its buckets.

    They travel as float16 if `compression` says so; the hook for bfloat16 refuses Gloo.
    """

    period = 1

    def __init__(self, compression: str = "none", backend: str = "gloo") -> None:
        from torch import distributed

        if backend == "gearshift":
            import gearshift.torch.c10d  # noqa: F401  (registers the backend)
        distributed.init_process_group(backend)
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self._distributed = distributed
        self._compression = compression

    def wrap(self, model: nn.Module, optimizer: Optimizer) -> nn.Module:
        wrapped = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
        if self._compression == "fp16":
            from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

            wrapped.register_comm_hook(None, fp16_compress_hook)
        return wrapped

    def barrier(self) -> None:
        self._distributed.barrier()

    def mean(self, value: float) -> float:
        total = torch.tensor([value], dtype=torch.float64)
        self._distributed.all_reduce(total)
        return float(total[0]) / self.size

    def stats(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # who is through it first may be gone already
            self._distributed.barrier()
        # Threads of PyTorch abort a process that ends in order now and then ("terminate called").
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


class Local(Ddp):
    """No communication: the time that computing takes on all ranks at once."""

    def wrap(self, model: nn.Module, optimizer: Optimizer) -> nn.Module:
        return model


class Averager(Ddp):
    """PyTorch's local SGD: a model that is not wrapped, averaged by its PeriodicModelAverager."""

    def __init__(self, period: int) -> None:
        super().__init__()
        self.period = period

    def wrap(self, model: nn.Module, optimizer: Optimizer) -> nn.Module:
        from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

        # It averages after the first step that is no warm-up: so the first time after `period`.
        averager = PeriodicModelAverager(self.period, warmup_steps=self.period - 1)
        optimizer.register_step_post_hook(
            lambda *_: averager.average_parameters(model.parameters())
        )
        return model


def make_side(options: dict[str, Any]) -> Side:
    """`side=` gearshift, ddp, averager (`every=` steps) or local.

    `compression=fp16` is of ddp, and of ours by `strategy=`; `backend=gloo|gearshift` of ddp.
    """
    name = options.get("side", "gearshift")
    if name == "gearshift":
        return Gearshift(options.get("strategy", "all_reduce"))
    if name == "averager":
        return Averager(int(options["every"]))
    if name == "local":
        return Local()
    return Ddp(options.get("compression", "none"), options.get("backend", "gloo"))
