"""How many samples a gradient stands for: its weight in the average."""

from __future__ import annotations

import contextlib
import functools
import logging
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from .. import _session
from ..errors import InvalidArgument

_functorch = torch._C._functorch
_log = logging.getLogger("gearshift")


class _Override:
    """What gst.samples(n) said, until the next backward has used it."""

    def __init__(self) -> None:
        self.value: float | None = None


override = _Override()


class _Latest:
    """The samples of the latest forward with gradients of any distributed model."""

    samples = 1.0


def current_weight(known: float | None = None) -> float:
    """Of the loss of the samples that this rank is at, in the mean over all ranks' samples.

    Args:
        known: for a backward: what it was in the forward.
    """
    if override.value is not None:
        return override.value
    return _Latest.samples if known is None else known


def forget_latest() -> None:
    """The model whose forward it was may be on its own again."""
    _Latest.samples = 1.0


def say(n: float) -> None:
    """Set the weight of the next backward."""
    if not 0 <= n < float("inf"):
        raise InvalidArgument(f"samples({n!r}): a number of samples is finite and not negative")
    override.value = float(n)


class Forward:
    """A forward pass: what the gradients that come back through it stand for."""

    __slots__ = ("_hook", "fresh", "known", "samples")

    def __init__(self, samples: int, fresh: int, known: bool) -> None:
        self.samples = samples
        self.fresh = fresh
        """Samples that the forward before was not given already."""
        self.known = known
        """Whether the input tells how many they are."""
        self._hook: weakref.ref[Any] | None = None

    def watch(self, outputs: Any, call: Callable[[Forward], None]) -> None:
        """Have `call` called whenever gradients arrive at the outputs."""
        hook = functools.partial(_reached, call, self)
        found = False
        for output in outputs_requiring_grad(outputs):
            output.register_hook(hook)
            found = True
        if found:
            self._hook = weakref.ref(hook)

    @property
    def may_be_reached(self) -> bool:
        """Whether a backward may come: not when the graph, and the hooks in it, are gone."""
        return self._hook is None or self._hook() is not None


def _reached(call: Callable[[Forward], None], forward: Forward, gradient: Tensor) -> None:
    call(forward)


class SampleCounter:
    """Counts the samples that gradients stand for, since they were last exchanged.

    A forward counts when a backward comes through its outputs; one for an evaluation does not.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        """Its name, for messages."""
        self._forwards: deque[Forward] = deque(maxlen=1024)
        """Since the latest backward."""
        self._reached: list[Forward] = []
        """By the backward in progress."""
        self._reached_before: list[Forward] = []
        """By torch.autograd.grad, whose results may become gradients."""
        self._pending = 0.0
        self._last = 1.0
        self._known_once = False
        self._told = False
        self._seen: weakref.ref[Tensor] | None = None

    def note(self, inputs: Any) -> Forward:
        """A forward on `inputs`."""
        tensor, n = next(leading_tensors(inputs), (None, None))
        if tensor is None:
            n = _length(inputs)
        repeated = tensor is not None and self._seen is not None and self._seen() is tensor
        self._seen = None if tensor is None else weakref.ref(tensor)
        samples = _Latest.samples = 1 if n is None else n
        forward = Forward(samples, 0 if repeated else samples, n is not None)
        if len(self._forwards) % 64 == 63:
            alive = [f for f in self._forwards if f.may_be_reached]
            self._forwards = deque(alive, self._forwards.maxlen)
        self._forwards.append(forward)
        return forward

    def reach(self, forward: Forward) -> None:
        """A backward has come to the outputs of a forward."""
        if forward not in self._reached:
            self._reached.append(forward)

    def forget_reached(self) -> None:
        """A backward has ended half-way."""
        self._reached.clear()

    def begin_backward(self) -> int:
        """The samples whose forwards were reached belong to the backward that begins now.

        Returns:
            How many were not seen before; several forwards, as on two views of a batch, share them.
        """
        reached = self._reached or self._reached_before
        counted = list(reached) or [f for f in self._forwards if f.may_be_reached]
        if override.value is not None:
            self._last = override.value
        elif any(f.known for f in counted):
            self._last = float(sum(f.samples for f in counted))
            self._known_once = True
        else:
            self._tell(bool(counted))
        self._pending += self._last
        self._forwards.clear()
        self._reached_before.clear()
        return max((f.fresh for f in counted), default=0)

    def end_backward(self, began: bool) -> None:
        """It is over; `began` says whether the model's parameters got gradients from it."""
        if not began:
            self._reached_before.extend(self._reached)
        self._reached.clear()

    def _tell(self, called: bool) -> None:
        if self._told or (not called and self._known_once):
            return
        self._told = True
        if _session.world_size() > 1:
            what = "no tensor was found in the input of" if called else "there was no call of"
            _log.warning(
                "%s %s: a gradient of it counts as one of a single sample. Where ranks may have "
                "batches of different sizes, say gst.samples(n) before each backward",
                what,
                self.model,
            )

    @property
    def pending(self) -> float:
        """Samples of the gradients accumulated since the last exchange."""
        return self._pending

    @property
    def latest(self) -> float:
        """Samples of the latest backward."""
        return self._last

    def exchanged(self) -> None:
        """The gradients so far have been exchanged."""
        self._pending = 0.0


def outputs_requiring_grad(outputs: Any) -> list[Tensor]:
    """The tensors in a module's outputs through which a backward may begin."""
    leaves = _leaves(outputs)
    tensors = (t.data if isinstance(t, PackedSequence) else t for t in leaves)
    return [t for t in tensors if t.requires_grad and t.grad_fn is not None]


def leading_tensors(value: Any) -> Iterator[tuple[Tensor, int]]:
    """Tensors with a leading dimension, depth first, and how many samples each has."""
    for item in _leaves(value):
        if isinstance(item, PackedSequence):
            yield item.data, int(item.batch_sizes[0])
        elif item.dim() > 0:
            yield item, item.size(0) * _mapped(item)


def _mapped(tensor: Tensor) -> int:
    """How many a tensor stands for within torch.func.vmap, which hides a dimension."""
    number = 1
    while _functorch.is_functorch_wrapped_tensor(tensor):
        inner = _functorch.get_unwrapped(tensor)
        if _functorch.is_batchedtensor(tensor):
            number *= inner.size(_functorch.maybe_get_bdim(tensor))
        tensor = inner
    return number


def _leaves(value: Any, nested: bool = False) -> Iterator[Tensor | PackedSequence]:
    """In containers of any depth, and in the attributes of objects, though not of theirs."""
    if isinstance(value, Tensor | PackedSequence):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item, nested)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _leaves(item, nested)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from _leaves(getattr(value, name), nested)
    elif not nested and not callable(value):  # a class or a module is none
        for item in list(getattr(value, "__dict__", {}).values()):
            yield from _leaves(item, True)


def _length(inputs: tuple[tuple[Any, ...], Mapping[str, Any]]) -> int | None:
    """Of the first argument that has one: a list of texts, say."""
    positional, named = inputs
    for argument in (*positional, *named.values()):
        if isinstance(argument, Sized) and not isinstance(argument, str | bytes | Mapping):
            return len(argument)
    return None


@torch._disable_dynamo
def _run(call: Any, arguments: Any) -> None:
    """Outside of compiled graphs: what hooks do depends on the call."""
    call(*arguments)


class ForwardHook:
    """A module hook that copies and pickles of the module do without.

    A model may be deep-copied or saved whole after distribute(); what comes out must not refer to
    this process's part in a job, nor need gearshift to be loaded.
    """

    def __init__(self, call: Any) -> None:
        self._call = call

    def __call__(self, *arguments: Any) -> None:
        _run(self._call, arguments)

    def __deepcopy__(self, memo: Any) -> Any:
        return contextlib.nullcontext().__exit__

    def __reduce__(self) -> Any:
        # A method of the standard library that takes anything and returns None.
        return getattr, (contextlib.nullcontext(), "__exit__")
