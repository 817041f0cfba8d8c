"""A strategy of Lightning's Trainer: gearshift's, whichever that is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import fields
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import gearshift.torch.c10d  # noqa: F401  (its backend)

from ... import _session
from ... import strategy as strategies
from ...launch.environment import ProcessEnvironment
from ...launch.strategy import asked_strategy, asked_total_steps
from .._control import clip_grad_norm_, no_sync, release
from .._distribute import distribute
from .._objects import share_object
from .._optimizer import DistributedOptimizer
from .._registry import find
from . import _package
from ._environment import GearshiftEnvironment, place_by_lightning, place_of_process
from ._models import models_of
from ._signals import leave_ranks_alone


class GearshiftStrategy(_package.DDPStrategy):
    """Has Lightning's Trainer train with gearshift.

    ::

        from gearshift.torch.lightning import GearshiftStrategy

        trainer = Trainer(accelerator="cpu", devices=4, strategy=GearshiftStrategy("ps:ssp(3)"))

    The LightningModule gets no wrapper. Its optimizers are distributed when they have been made by
    ``configure_optimizers``; what Lightning tells other processes (metrics, barriers, checkpoints)
    goes over gearshift's backend of torch.distributed. Where a launcher has started the process
    (``gearshift run``, torchrun, mpirun, srun), the job's size is the launcher's, and `devices` and
    `num_nodes` need not tell it; else Lightning starts `devices` processes on this host.

    Args:
        strategy: a value or its text (:mod:`gearshift.strategy`); None: what the job was started
            with, or All-Reduce.
        total_steps: optimizer steps of each worker, for ``At(fraction=)``; None: what the Trainer
            estimates.
        elementwise: as in :func:`gearshift.torch.distribute`.
        broadcast_buffers: as in :func:`gearshift.torch.distribute`.
        init: options of :func:`gearshift.init`, such as `timeout` and `interface`.
        process_group_backend: None: "gearshift" for a model in host memory, else Lightning's.
        process_group_timeout: how long a rank that lives is waited for where Lightning waits.
        checkpoint_io, precision_plugin, accelerator: as in Lightning's DDPStrategy.

    Raises:
        InvalidArgument: for a strategy that cannot be, or an environment that contradicts itself.
    """

    strategy_name = "gearshift"

    def __init__(
        self,
        strategy: strategies.Strategy | str | None = None,
        *,
        total_steps: int | None = None,
        elementwise: bool = False,
        broadcast_buffers: bool = True,
        init: dict[str, Any] | None = None,
        process_group_backend: str | None = None,
        process_group_timeout: timedelta = timedelta(minutes=30),
        checkpoint_io: Any = None,
        precision_plugin: Any = None,
        accelerator: Any = None,
    ) -> None:
        place = place_of_process()
        # Lightning's own for Slurm submits a job again that is to make room.
        own = None if place is None or place.launcher == "slurm" else GearshiftEnvironment(place)
        super().__init__(
            accelerator=accelerator,
            cluster_environment=own,
            checkpoint_io=checkpoint_io,
            precision_plugin=precision_plugin,
            process_group_backend=process_group_backend,
            timeout=process_group_timeout,
        )
        self._asked = None if strategy is None else strategies.parse(strategy)
        self._total_steps = total_steps
        self._options: dict[str, Any] = {
            "elementwise": elementwise,
            "broadcast_buffers": broadcast_buffers,
        }
        self._init = dict(init or {})
        self._place = place
        self._distributed: list[nn.Module] = []
        self._failed = False

    # Processes

    @property
    def root_device(self) -> torch.device:
        devices = self.parallel_devices or [torch.device("cpu")]
        return devices[0] if devices[0].type == "cpu" else devices[self.local_rank]

    @property
    def num_processes(self) -> int:
        if self._place is None:
            return len(self.parallel_devices or [])
        servers = self._place.servers if self._place.nnodes == 1 else 0
        return max(1, self._place.local_world_size - servers)

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        return {"num_replicas": self.world_size, "rank": self.global_rank}

    def set_world_ranks(self) -> None:
        if isinstance(self.cluster_environment, GearshiftEnvironment):
            self.cluster_environment.set_global_rank(self.global_rank)
        else:
            super().set_world_ranks()

    def setup_distributed(self) -> None:
        """Join the job, and make the process group of its workers."""
        _package.fabric.utilities.seed.reset_seed()
        self.set_world_ranks()
        self._join()
        self._process_group_backend = self._get_process_group_backend()
        if not dist.is_initialized():
            _make_process_group(self._process_group_backend, self._timeout)

    def _join(self) -> None:
        if _session.is_initialized():
            return
        options = dict(self._init)
        if self._place is None and self.num_nodes * self.num_processes > 1:
            place = place_by_lightning(self.cluster_environment, self.num_processes, self.num_nodes)
            options = {**_told(place), **options}
        _session.init(**options)

    def _get_process_group_backend(self) -> str:
        if self._process_group_backend is None and self.root_device.type == "cpu":
            return "gearshift"
        return super()._get_process_group_backend()

    # Training

    def configure_ddp(self) -> None:
        """No wrapper."""

    def setup(self, trainer: Any) -> None:
        self._failed = False
        super().setup(trainer)
        leave_ranks_alone(trainer)

    def setup_optimizers(self, trainer: Any) -> None:
        """Distribute the module with its optimizer; of several, each with the parts it trains."""
        super().setup_optimizers(trainer)
        steps = self._steps(trainer)
        models = models_of(self.lightning_module, self.optimizers)
        for model, optimizer in zip(models, self.optimizers, strict=True):
            distribute(model, optimizer, strategy=self._asked, total_steps=steps, **self._options)
            self._distributed.append(model)
        self.precision_plugin.clip_grad_by_norm = self._clip_grad_by_norm

    def _steps(self, trainer: Any) -> int | None:
        """For a switch after a fraction of them, and the last round of local SGD."""
        told = self._total_steps or asked_total_steps()
        strategy = self._asked or asked_strategy()
        needed = strategy is not None and (
            isinstance(strategy, strategies.StrategySwitch) or strategies.uses_local(strategy)
        )
        if told is not None or not needed:
            return told
        with contextlib.suppress(_package.misconfiguration()):
            estimate = trainer.estimated_stepping_batches
            return int(estimate) if 0 < estimate < float("inf") else None
        return None

    def training_step(self, *arguments: Any, **named: Any) -> Any:
        """Stands for a call of the module, whose own `forward` it need not use."""
        found = [find(model) for model in self._distributed if model is self.lightning_module]
        adapters = [distributed.adapter for distributed in found if distributed is not None]
        calls = [adapter.begin_call(arguments, named) for adapter in adapters]
        output = super().training_step(*arguments, **named)
        for adapter, call in zip(adapters, calls, strict=True):
            adapter.end_call(call, output)
        return output

    def optimizer_step(self, optimizer: Any, *arguments: Any, **more: Any) -> Any:
        """With the epoch, which policies look at."""
        if isinstance(optimizer, DistributedOptimizer):
            more.setdefault("epoch", self.lightning_module.current_epoch)
        return super().optimizer_step(optimizer, *arguments, **more)

    @contextlib.contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Of batches whose gradients are accumulated."""
        with contextlib.ExitStack() as stack:
            for model in self._distributed:
                stack.enter_context(no_sync(model))
            yield

    def _clip_grad_by_norm(self, optimizer: Any, clip_val: float) -> None:
        """Under a server, of what the servers apply."""
        clip_grad_norm_(list(self.precision_plugin.main_params(optimizer)), float(clip_val))

    # The end

    def on_exception(self, exception: BaseException) -> None:
        super().on_exception(exception)
        self._failed = True
        # Of others Python tells when nobody has caught them; these end the process with code 0.
        if isinstance(exception, SystemExit | KeyboardInterrupt):
            _session.fail(f"{type(exception).__name__} in the Trainer")

    def teardown(self) -> None:
        """Module and optimizers are on their own again, and equal on all ranks."""
        models, self._distributed = self._distributed, []
        if not self._failed:
            for model in models:
                release(model)
        super().teardown()


def _told(place: ProcessEnvironment) -> dict[str, Any]:
    """As options of `init`."""
    said = {f.name: getattr(place, f.name) for f in fields(place) if f.name != "timeout"}
    return {name: value for name, value in said.items() if value is not None}


def _make_process_group(backend: str, timeout: timedelta) -> None:
    """Of the workers of this session. Collective."""
    rank, size = _session.rank(), _session.world_size()
    store: dist.Store
    if size == 1:
        store = dist.HashStore()
    elif rank == 0:
        store = dist.TCPStore(
            _session.own_address(), 0, size, True, timeout, wait_for_workers=False
        )
        share_object((store.host, store.port), 0)
    else:
        host, port = share_object(None, 0)
        store = dist.TCPStore(host, port, size, False, timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
