"""Records how long the parts of a training step take, whatever training loop makes the step."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.optim import Optimizer
from torch.optim import optimizer as optimizers

from ..errors import Error, InvalidArgument
from ..report.words import count
from ..sim import given
from ..sim.workload import Workload
from ._profile_steps import ParameterInfo, Recording, StepTimes, summarize
from ._registry import everything, unwrapped
from ._samples import leading_tensors

_WARMUP = 5
_active: Recorder | None = None


class StopProfiling(BaseException):
    """Raised into a script, at the first thing that it does after the last step that is wanted."""


class Recorder:
    """Sees a training loop through hooks that PyTorch calls for every module and optimizer.

    *forward* lasts from the first call of a module that has parameters, with gradients enabled, to
    the call of backward: modules without any prepare data, too. A model called in eval mode,
    although its steps are made in training mode, is evaluated, and does not begin one.
    *backward* lasts from there to the last gradient of a parameter. A *step* lasts from one step of
    the leader, the optimizer that steps most often, to its next: other optimizers' steps count into
    it. What is stepped within backward, parameter by parameter, counts when backward is over.
    Of several backwards in a step the last is its backward, in which gradients become final; all
    before it is forward. What a loop does besides (load data, zero gradients, log) is left out.

    On an accelerator, each time is taken when the device has done what it was given.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        optimizer: Optimizer | None = None,
        *,
        warmup: int = _WARMUP,
        steps: int | None = None,
        stop: bool = False,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> None:
        """Without a model, all that train are found; `stop` has the script end after `steps`."""
        self._model = None if model is None else unwrapped(model)
        self._leader = optimizer
        self._leader_is_given = optimizer is not None
        self._others: set[int] = set()
        """Optimizers that made a step since the leader did."""
        self._warmup = warmup
        self._wanted = steps
        self._stop = stop
        self._on_step = on_step
        self._called: list[nn.Module] = []
        self._known: set[int] = set()
        """Modules that were called, and their parts."""
        self._unscanned = self._model is not None
        self._watched: dict[int, Tensor] = {}
        self._optimizers: dict[int, Optimizer] = {}
        self._finished: list[StepTimes] = []
        self._step = StepTimes()
        self._whole = True
        self._sync = False
        self._forward_begin: float | None = None
        self._opener: nn.Module | None = None
        """Whose call began forward."""
        self._in_training: set[int] = set()
        """Modules that began one in training mode, and their parts."""
        self._bare_begin: float | None = None
        """The first call of a module without parameters: forward's begin, should no other come."""
        self._idle_since: float | None = None
        self._samples: float | None = None
        self._backward_begin: float | None = None
        self._ready: dict[int, float] = {}
        self._stepping: Optimizer | None = None
        self._nested = self._backwards_before = 0
        """Calls of an optimizer's step within its step: of its base class."""
        self._step_begin = self._step_compute = 0.0
        self._within: list[Optimizer] = []
        """Those that made a step within the backward under way: hooks of gradients call them."""
        self._within_seconds = 0.0
        """What that took."""
        self._handles: list[Any] = []
        self._backward: Callable[..., None] | None = None
        self._backwards = 0
        self._server = self._stepped = False
        self._process = os.getpid()

    # Life.

    def __enter__(self) -> Recorder:
        global _active
        if _active is not None:
            raise Error("a profile is being recorded already")
        _active = self
        if self._leader is not None:
            self._optimizers[id(self._leader)] = self._leader
        self._handles += [
            modules.register_module_forward_pre_hook(self._before_forward),
            optimizers.register_optimizer_step_pre_hook(self._before_step),
            optimizers.register_optimizer_step_post_hook(self._after_step),
        ]
        self._backward = torch.autograd.backward
        torch.autograd.backward = self._hooked_backward(torch.autograd.backward)
        return self

    def __exit__(self, *_: object) -> None:
        global _active
        _active = None
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        assert self._backward is not None
        torch.autograd.backward = self._backward

    @property
    def steps(self) -> int:
        """Steps recorded after the warm-up."""
        return max(0, len(self._finished) - self._warmup)

    @property
    def full(self) -> bool:
        """Whether all steps that are wanted have been recorded."""
        return self._wanted is not None and self.steps >= self._wanted

    def recording(self, name: str | None, batch_size: int | None) -> Recording:
        """What was recorded.

        Raises:
            Error: when no training step was seen; the text says what was missing.
        """
        if not self._finished:
            raise Error(self._missing())
        steps = self._finished[min(self._warmup, len(self._finished) - 1) :]
        infos = list(self._parameters())
        made = summarize(steps, infos, name or self._name(), batch_size)
        warnings = list(made.warnings)
        if self.steps < (self._wanted or 1):
            seen = count(self.steps, "step")
            if self._wanted is not None:
                seen = f"{self.steps} of {count(self._wanted, 'step')}"
            warnings.insert(
                0,
                f"only {seen} after a warm-up of {self._warmup}"
                + ("" if self.steps else ": the last one before its end is in the file"),
            )
        if not self._called and self._model is None:
            warnings.append("no module was called: forward counts from the step before")
        if self._server:
            warnings.append(
                "a parameter server was in force: the optimizer's time is that of a push and of "
                "the server in this process; record under all_reduce to have the worker's own"
            )
        return Recording(made.workload, made.steps, tuple(warnings))

    def _missing(self) -> str:
        if self._backwards == 0 and not self._stepped:
            return "neither a backward() nor a step of a torch.optim.Optimizer was seen"
        if self._backwards == 0:
            return "an optimizer made steps, but no backward() of PyTorch was seen"
        if not self._stepped:
            return "no step of a torch.optim.Optimizer was seen, only backward()"
        return "no complete training step (forward, backward, optimizer step) was seen"

    # Events, in the order of a step.

    def _now(self) -> float:
        if self._sync:
            torch.accelerator.synchronize()
        return time.perf_counter()

    def _check(self) -> bool:
        """Whether this event counts; ends the script when it is done.

        Not in a forked process: the loader's workers may call modules, too.
        """
        if os.getpid() != self._process:
            return False
        if self.full and self._stop:
            raise StopProfiling
        return not self.full

    def _before_forward(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling() or not self._check():
            return
        if self._backward_begin is not None:
            return  # recomputation of activations
        if not torch.is_grad_enabled():
            self._note_unseen(module)
            return
        trains = self._trains(module)
        if self._forward_begin is None and not self._begins_forward(module, trains):
            return
        if trains and id(module) not in self._known:
            self._called.append(module)
            self._known.update(id(part) for part in module.modules())
            self._unscanned = True
        if self._samples is None:
            _, self._samples = next(leading_tensors(args), (None, None))

    def _trains(self, module: nn.Module) -> bool:
        return id(module) in self._known or next(module.parameters(), None) is not None

    def _is_evaluated(self, module: nn.Module) -> bool:
        return not module.training and id(module) in self._in_training

    def _note_unseen(self, module: nn.Module) -> None:
        """An evaluation, or a part of the step that nobody can tell from one."""
        if self._forward_begin is None and not self._step.unseen:
            self._step.unseen = self._trains(module) and not self._is_evaluated(module)

    def _begins_forward(self, module: nn.Module, trains: bool) -> bool:
        if self._is_evaluated(module):  # without no_grad
            return False
        if trains:
            self._forward_begin, self._opener = self._now(), module
            self._samples = None
        elif self._bare_begin is None:
            self._bare_begin = self._now()
        return True

    def _note_mode(self) -> None:
        """The opener's forward has led to a backward."""
        opener, self._opener = self._opener, None
        if opener is not None and opener.training and id(opener) not in self._in_training:
            self._in_training.update(id(part) for part in opener.modules())

    def _hooked_backward(self, original: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(original)
        def backward(*args: Any, **kwargs: Any) -> None:
            if self._backward_begin is not None or not self._check():
                return original(*args, **kwargs)
            self._begin_backward()
            try:
                return original(*args, **kwargs)
            finally:
                self._end_backward()

        return backward

    def _begin_backward(self) -> None:
        now = self._now()
        self._note_mode()
        begins = (self._forward_begin, self._bare_begin, self._idle_since)
        begin = next((begin for begin in begins if begin is not None), None)
        self._whole = self._whole and begin is not None
        self._step.begin_backward(0.0 if begin is None else now - begin)
        self._backwards += 1
        if self._unscanned:
            self._scan()
        self._ready.clear()
        self._within.clear()
        self._within_seconds = 0.0
        self._backward_begin = self._now()

    def _gradient_hook(self, key: int) -> Callable[[Tensor], None]:
        def hook(parameter: Tensor) -> None:
            if self._backward_begin is not None:
                self._ready[key] = self._now() - self._backward_begin - self._within_seconds

        return hook

    def _end_backward(self) -> None:
        now = self._now()
        assert self._backward_begin is not None
        step = self._step
        whole = now - self._backward_begin - self._within_seconds
        step.backward = max(self._ready.values(), default=whole)
        step.ready.update(self._ready)
        # A distributed model knows what its batch stands for: gst.samples() may have said so.
        known = [d.adapter.samples.latest for d in everything()]
        step.samples += max(known, default=self._samples or 0)
        self._backward_begin = self._forward_begin = self._bare_begin = self._samples = None
        self._idle_since = now
        if self._within:
            for optimizer in sorted(self._within, key=lambda one: one is not self._leader):
                self._end_of_step(optimizer)
            self._idle_since = self._now()

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        if not self._check() or self._stepping not in (None, optimizer):  # one within another
            return
        if self._stepping is optimizer and self._backwards == self._backwards_before:
            self._nested += 1  # unless a step before ended with an exception
            return
        self._stepping, self._nested = optimizer, 0
        self._backwards_before = self._backwards
        self._step_compute = self._step.compute
        self._step_begin = self._now()

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        if self._stepping is not optimizer:
            return
        if self._nested:
            self._nested -= 1
            return
        now = self._now()
        self._stepping, self._stepped = None, True
        # A closure's forward and backward ran within the optimizer's step.
        seconds = now - self._step_begin - (self._step.compute - self._step_compute)
        self._step.optimizer += seconds
        self._optimizers[id(optimizer)] = optimizer
        distributed = getattr(optimizer, "_gearshift", None)
        self._server = self._server or (distributed is not None and distributed.uses_server)
        if self._backward_begin is not None:
            self._within.append(optimizer)
            self._within_seconds += seconds
            return
        if self._step.backwards:
            self._end_of_step(optimizer)
        self._forward_begin = self._bare_begin = self._samples = None
        self._idle_since = self._now()

    def _end_of_step(self, optimizer: Optimizer) -> None:
        key = id(optimizer)
        if self._leader is None:
            self._leader = optimizer
        elif optimizer is not self._leader:
            if self._leader_is_given or key not in self._others:
                self._others.add(key)
                return
            # Its second step since the leader's: it leads, and what the step has so far is no step.
            self._leader, self._whole = optimizer, False
        self._others.clear()
        if self._whole:
            self._finished.append(self._step)
            self._on_step(len(self._finished))
        self._step, self._whole = StepTimes(), True
        self._scan()

    # Parameters.

    def _scan(self) -> None:
        """Watch what is trainable now: layers may be thawed, and models made, on the way."""
        self._unscanned = False
        found = [p for root in self._roots() for p in root.parameters()]
        for p in (*found, *self._optimized()):
            if p.requires_grad and id(p) not in self._watched:
                self._watched[id(p)] = p
                self._sync = self._sync or p.device.type != "cpu"
                hook = self._gradient_hook(id(p))
                self._handles.append(p.register_post_accumulate_grad_hook(hook))

    def _optimized(self) -> list[Tensor]:
        return [p for o in self._optimizers.values() for g in o.param_groups for p in g["params"]]

    def _roots(self) -> list[nn.Module]:
        """The modules that were called and are part of no other such."""
        if self._model is not None:
            return [self._model]
        parts = {id(part) for m in self._called for part in m.modules() if part is not m}
        return [m for m in self._called if id(m) not in parts]

    def _name(self) -> str:
        roots = self._training_roots()
        return type(roots[0]).__name__ if roots else "workload"

    def _training_roots(self) -> list[nn.Module]:
        own = {id(p) for p in self._optimized()}
        roots = [unwrapped(root) for root in self._roots()]
        return [r for r in roots if r is self._model or any(id(p) in own for p in r.parameters())]

    def _parameters(self) -> Iterator[ParameterInfo]:
        """All trainable ones of models that some optimizer trains, then other tensors of its."""
        names: set[str] = set()
        keys: set[int] = set()
        named = [item for root in self._training_roots() for item in root.named_parameters()]
        if self._model is None or self._leader is not None:
            named += [
                (name, p)
                for optimizer in self._optimizers.values()
                for name, p in _named_by(optimizer)
            ]
        for name, p in named:
            if id(p) in keys or not p.requires_grad or p.numel() == 0:
                continue
            unique = name
            while unique in names:
                unique = f"{name}#{len(keys)}" if unique == name else unique + "#"
            names.add(unique)
            keys.add(id(p))
            yield ParameterInfo(id(p), unique, tuple(p.shape), str(p.dtype).removeprefix("torch."))


def _named_by(optimizer: Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    for g, group in enumerate(optimizer.param_groups):
        given = group.get("param_names")
        for i, p in enumerate(group["params"]):
            yield (given[i] if given else f"group{g}.{i}"), p


class Profile:
    """What :func:`gearshift.torch.profile` records; see there."""

    def __init__(
        self, recorder: Recorder, name: str | None = None, batch_size: int | None = None
    ) -> None:
        self._recorder = recorder
        self._name, self._batch_size = name, batch_size

    def __enter__(self) -> Profile:
        self._recorder.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self._recorder.__exit__(*raised)

    @property
    def steps(self) -> int:
        """Steps recorded after the warm-up."""
        return self._recorder.steps

    @property
    def done(self) -> bool:
        """Whether all steps that were asked for have been recorded."""
        return self._recorder.full

    @property
    def recording(self) -> Recording:
        """The workload with the single steps and warnings; raises Error without any step."""
        return self._recorder.recording(self._name, self._batch_size)

    @property
    def workload(self) -> Workload:
        """What was recorded; raises Error without any step."""
        return self.recording.workload


def profile(
    model: nn.Module | None = None,
    optimizer: Optimizer | None = None,
    *,
    name: str | None = None,
    batch_size: int | None = None,
    warmup: int = _WARMUP,
    steps: int | None = None,
) -> Profile:
    """Record a training loop's workload for a simulation, in a ``with`` statement.

    ::

        with gst.profile(model, optimizer) as p:
            train(model, optimizer)
        p.workload.save("workload.toml")

    Distributed or not, models train as ever meanwhile; this is no collective.

    Args:
        model: its trainable parameters count; None: those of all models that are trained.
        optimizer: whose steps count; None: the one that steps most often.
        name: of the workload; the model's class otherwise.
        batch_size: samples per step, when the first tensor that the model is given does not say.
        warmup: steps to leave out at first.
        steps: to record; ``done`` says when that is reached. None: all.
    """
    if given.whole("profile: warmup", warmup) < 0:
        raise InvalidArgument(f"profile: warmup={warmup}: must not be negative")
    if steps is not None and given.whole("profile: steps", steps) < 1:
        raise InvalidArgument(f"profile: cannot record {steps} steps: give at least 1, or None")
    if batch_size is not None and given.whole("profile: batch_size", batch_size) < 1:
        raise InvalidArgument(f"profile: batch_size={batch_size}: must be positive")
    if name is not None:
        given.text("profile: name", name)
    recorder = Recorder(model, optimizer, warmup=warmup, steps=steps)
    return Profile(recorder, name, batch_size)
