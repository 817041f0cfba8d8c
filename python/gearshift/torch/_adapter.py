"""One distributed model on one worker: what happens around backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import _session
from .._core import Replica
from ..errors import Error, MismatchError, Unsupported
from ._memory import Buffers, Trainable, copy_gradient, readopt
from ._parts import called_parts, sparse_dims
from ._samples import Forward, ForwardHook, SampleCounter, override

_queue_callback = torch.autograd.Variable._execution_engine.queue_callback
_current_task: Callable[[], int] = torch._C._current_graph_task_id
_BACKWARDS_TO_WATCH = 8
"""As many tell which parameters reentrant checkpointing gives gradients more than once."""
_FIRED, _SENT = 1, 2


class Adapter:
    """Exchanges the gradients of a model's parameters while its backward runs.

    A *backward* begins with the first gradient hook and ends in a callback of the autograd engine.
    A *round* is a backward whose gradients are exchanged (one under no_sync is none).
    """

    def __init__(
        self,
        replica: Replica,
        model: nn.Module,
        trainables: Sequence[Trainable],
        buffers: Buffers,
        *,
        holds_server: bool,
        on_forward: Callable[[int], None],
        on_backward: Callable[[int], None],
    ) -> None:
        self.replica = replica
        self.trainables = list(trainables)
        self.buffers = buffers
        self.holds_server = holds_server
        """Whether the strategy has a server in some phase."""
        self.samples = SampleCounter(type(model).__name__)
        self.no_sync_depth = 0
        self.rounds = 0
        """Rounds since the last step."""
        self.versions_of_round: list[int] = []
        """Of the parameters, after the latest round that was not the first."""
        self._bare: list[Trainable] = []
        """Those that had no gradient on any rank in the latest round."""
        self.unsynced = False
        """Some gradient was accumulated under no_sync, and not exchanged since."""
        self.called = False
        """There was a forward since the last step."""
        self._zeroed = False
        """The optimizer has zeroed what was exchanged: other gradients are new."""
        self.closed = False
        self._on_forward = on_forward
        self._on_backward = on_backward
        self._forward: Forward | None = None
        self._depth = 0
        self._present = bytearray(len(self.trainables))
        self._taken = bytearray(len(self.trainables))
        self._fired = bytearray(len(self.trainables))
        """Whose hook has fired in this backward, and whose gradient is on its way."""
        self._repeated = bytearray(len(self.trainables))
        """Whose hook has fired more than once in some backward: only its end is the end of them."""
        self._backwards = 0
        self._watched_until = _BACKWARDS_TO_WATCH
        self._sparse_dims = sparse_dims(model, self.trainables)
        self._in_backward = False
        self._exchanges = False
        self._empty = False
        self._armed_task: int | None = None
        self._handles: list[Any] = []
        self._own_hooks: list[tuple[dict[int, Any], int]] = []
        """Of each parameter all hooks of its gradient, and which is ours."""
        self._install_hooks(model)

    @property
    def uses_server(self) -> bool:
        """Whether a parameter server is in force."""
        return self.replica.uses_server

    @property
    def is_local(self) -> bool:
        """Whether local SGD is in force: gradients are this worker's own, and stay here."""
        return self.replica.is_local

    @property
    def parameters(self) -> list[nn.Parameter]:
        """In the replica's order."""
        return [t.parameter for t in self.trainables]

    # Hooks.

    def _install_hooks(self, model: nn.Module) -> None:
        for index, trainable in enumerate(self.trainables):
            if trainable.group < 0 and self.holds_server:
                continue  # no server may update it; its gradient stays the worker's own
            hook, parameter = self._gradient_hook(index, trainable), trainable.parameter
            handle = parameter.register_post_accumulate_grad_hook(hook)
            self._handles.append(handle)
            self._own_hooks.append((parameter._post_accumulate_grad_hooks, handle.id))
        parts = list(called_parts(model))
        for part in parts:
            before, after = ForwardHook(self._before_part), ForwardHook(self._after_part)
            self._handles.append(part.register_forward_pre_hook(before, with_kwargs=True))
            self._handles.append(part.register_forward_hook(after, always_call=True))
        if not parts:
            before = ForwardHook(lambda _, args, kwargs: self.begin_call(args, kwargs))
            after = ForwardHook(lambda _, _args, outputs: self.end_call(self._forward, outputs))
            self._handles.append(model.register_forward_pre_hook(before, with_kwargs=True))
            self._handles.append(model.register_forward_hook(after))

    def _gradient_hook(self, index: int, trainable: Trainable) -> Callable[[Tensor], None]:
        ready, fired, repeated = self.replica.ready, self._fired, self._repeated

        def hook(parameter: Tensor) -> None:
            last = self._in_backward or self._begin_backward()
            if fired[index]:
                self._note_repeated(index)
            else:
                fired[index] = _FIRED
            if not self._exchanges or self._empty or not last:
                return
            gradient = parameter.grad
            if gradient is not trainable.gradient:
                if gradient is None:
                    self._refuse_taken(trainable)
                    return
                if gradient.requires_grad and torch.is_grad_enabled() and not self._is_own():
                    self._refuse_graph(trainable)
                self._take_in(index, gradient)
            if repeated[index] or (
                self._backwards < self._watched_until and self._may_fire_again()
            ):
                return  # it travels when backward is over
            fired[index] = _SENT
            ready(index)

        return hook

    def _run_last(self) -> bool:
        """Have the hooks of this class run after the user's, which may change gradients.

        Returns:
            Whether they would have, where one is running.
        """
        own = self._own_hooks
        late = [
            (hooks, key) for hooks, key in own if len(hooks) > 1 and next(reversed(hooks)) != key
        ]
        for hooks, key in late:
            hooks[key] = hooks.pop(key)
        return not late

    def _may_fire_again(self) -> bool:
        """Whether a hook that fires now, for the first time in this backward, may not be the last.

        Reentrant activation checkpointing runs a backward of its own for each part, in which a
        module that several parts use has a gradient each time. Nothing tells of the last one but
        what earlier backwards were like.
        """
        return self._backwards == 0 or _current_task() != self._armed_task

    def _note_repeated(self, index: int) -> None:
        if not self._repeated[index]:
            self._repeated[index] = 1
            self._watched_until = self._backwards + _BACKWARDS_TO_WATCH
        if self._fired[index] == _SENT and _session.world_size() > 1 and not self.uses_server:
            raise Unsupported(
                f"the gradient of '{self.trainables[index].name}' came again after it had gone to "
                "the other ranks: under torch.utils.checkpoint(use_reentrant=True) a module is "
                "used more often in this backward than in those before; say use_reentrant=False"
            )

    def begin_call(self, args: Any, kwargs: Any) -> Forward | None:
        """The model is called, or a function in its place, with these arguments."""
        if not torch.is_grad_enabled() or self.closed:
            return None
        if _current_task() < 0:
            self._armed_task = None
            if self._in_backward:
                raise Error(
                    "the previous backward() of this model raised half-way, when parts of its "
                    "gradients may already have been exchanged: this job cannot go on"
                )
            self.samples.forget_reached()
        self.called = True
        forward = self._forward = self.samples.note((args, kwargs))
        self._on_forward(forward.samples)
        return forward

    def end_call(self, forward: Forward | None, outputs: Any) -> None:
        """It has given these."""
        if torch.is_grad_enabled() and not self.closed and forward is not None:
            forward.watch(outputs, self._arm)

    def _before_part(self, part: nn.Module, args: Any, kwargs: Any) -> None:
        """Of a model that is not called itself: a call of a part, but not one within another."""
        self._depth += 1
        if self._depth == 1:
            self.begin_call(args, kwargs)

    def _after_part(self, part: nn.Module, args: Any, outputs: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.end_call(self._forward, outputs)

    def _arm(self, forward: Forward) -> None:
        """Gradients enter the model: have the *outermost* backward tell when it is done.

        Activation checkpointing runs a backward inside the backward, in which the first gradient
        hook may fire; a callback queued there would run too early.
        """
        task = _current_task()
        if task != self._armed_task:
            self._armed_task = task
            _queue_callback(self._end_backward)
            self._run_last()
            if self.samples.pending and all(p.grad is None for p in self.parameters):
                self.samples.exchanged()  # what was accumulated has been thrown away
        self.samples.reach(forward)

    def _begin_backward(self) -> bool:
        """Returns whether the hook that runs is the last one of its parameter."""
        self._in_backward = True
        last = True
        if self._armed_task is None:
            self._armed_task = _current_task()
            _queue_callback(self._end_backward)
            last = self._run_last()
        self._on_backward(self.samples.begin_backward())
        self._exchanges = self.no_sync_depth == 0 and not self.is_local
        self.unsynced = True
        if self._exchanges:
            self._begin_round()
        return last

    def _end_backward(self) -> None:
        self._armed_task = None
        self.samples.end_backward(self._in_backward)
        if not self._in_backward:
            return  # nothing of this model had a gradient in it: torch.autograd.grad, for example
        self._in_backward = False
        override.value = None
        if self._exchanges:
            self._end_round()
        self._backwards += 1
        self._fired[:] = bytes(len(self._fired))

    # Rounds.

    def _begin_round(self) -> None:
        self._empty = self.samples.pending == 0
        for t in self.trainables:
            t.renew_gradient()
            t.spare_kept_gradient()
        self.replica.backward_begin(self.samples.pending)

    def exchange_new(self, rounds: int = 0) -> None:
        """Before gradients are applied: exchange them, unless all have been since a moment.

        What was set by hand in place of a mean is applied as it is, for it is likely made of that.

        Args:
            rounds: how many there had been since the last step at that moment.
        """
        if self.unsynced or self._zeroed or self.rounds == rounds:
            self.exchange()
            return
        new = next((t for t in self._bare if t.parameter.grad is not None), None)
        if new is None:
            return
        try:
            self.exchange()
        except MismatchError as error:
            raise MismatchError(
                f"'{new.name}' was given a gradient after backward, which had left it without one "
                "on all ranks, so that this rank exchanged gradients again; did all ranks do so? "
                f"{error}"
            ) from error

    def exchange_own(self) -> None:
        """Before gradients are clipped: exchange those that are this rank's own until the step.

        Not under no_sync, where they are meant to be, nor what a step has left, at which a single
        rank may look.
        """
        if self.is_local:
            return
        left = not self.called or any(t.parameter.grad is t.gradient for t in self.trainables)
        if self.no_sync_depth == 0 and (self.unsynced or self.rounds > 0 or not left):
            self.exchange_new()

    def exchange(self) -> None:
        """A round without a backward: for gradients that were made in another way.

        Part of ``optimizer.step()`` or of clipping, so nobody has changed the gradients of some
        ranks only.
        """
        if self.samples.pending == 0:
            self._on_backward(self.samples.begin_backward())
            override.value = None
        self._begin_round()
        self._end_round(settled=True)

    @property
    def has_no_samples(self) -> bool:
        """Under local SGD: whether this worker's gradients are of no samples, and NaN, often."""
        return self.unsynced and self.samples.pending == 0 and self.samples.latest == 0

    def drop_gradients(self) -> None:
        """Let no parameter have a gradient."""
        for t in self.trainables:
            t.parameter.grad = None

    def weigh_own(self, latest: bool) -> None:
        """Under local SGD, with a step: tell the core what this worker's gradients weigh.

        Args:
            latest: those of the latest backward alone: a closure may make several of one batch.
        """
        if self.samples.pending == 0:  # they were made in another way than by backward
            self._on_backward(self.samples.begin_backward())
            override.value = None
        self.replica.backward_begin(self.samples.latest if latest else self.samples.pending)
        self.replica.backward_end(bytes(t.parameter.grad is not None for t in self.trainables))
        self.samples.exchanged()
        self.unsynced = self._zeroed = False

    def _end_round(self, settled: bool = False) -> None:
        present = self._collect()
        self.buffers.gather()
        result = self.replica.backward_end(bytes(present), settled)
        if not self.uses_server:
            self._hand_out(result)
            self.buffers.scatter()
            self.samples.exchanged()
        if self.rounds > 0:
            self.versions_of_round = [p._version for p in self.parameters]
        self.rounds += 1
        self.unsynced = self._zeroed = False

    def _collect(self) -> bytearray:
        """Bring the gradients of parameters whose hook did not fire; say who has one."""
        present, taken, fired = self._present, self._taken, self._fired
        for index, t in enumerate(self.trainables):
            gradient = t.parameter.grad
            present[index] = 0
            if gradient is None and fired[index] and not self._empty:
                self._refuse_taken(t)
            if gradient is not None and not self._empty and self._travels(t):
                present[index] = 1
                if gradient is not t.gradient and not taken[index]:
                    self._take_in(index, gradient)
            taken[index] = 0
        return present

    def _refuse_taken(self, t: Trainable) -> None:
        """A hook took a gradient away within backward; alone that does no harm."""
        if _session.world_size() > 1:
            raise Unsupported(
                f"a hook took the gradient of '{t.name}' away while backward was running, before "
                "it was that of all ranks: an optimizer that steps within backward would apply "
                "this rank's alone; let it step when backward is over"
            )

    def _refuse_graph(self, t: Trainable) -> None:
        raise Unsupported(
            f"backward(create_graph=True): the gradient of '{t.name}' becomes the mean over all "
            "ranks, through which no backward can go; torch.autograd.grad(loss, parameters, "
            "create_graph=True) gives this rank's gradients, and backward() of what is made of "
            "them exchanges"
        )

    def _is_own(self) -> bool:
        """Whether p.grad is this worker's alone, so that it may be part of a graph."""
        return self.uses_server or self.is_local or _session.world_size() == 1

    def _travels(self, t: Trainable) -> bool:
        return t.group >= 0 or not self.holds_server

    def _take_in(self, index: int, gradient: Tensor) -> None:
        """Copy a gradient into the core's memory, and let p.grad be there, if it can."""
        t = self.trainables[index]
        copy_gradient(gradient, t.gradient)
        self._sparse_dims[index] = gradient.sparse_dim() if gradient.is_sparse else 0
        keeps_graph = gradient.requires_grad and self._is_own()
        if not (gradient.is_sparse or t.staged or keeps_graph):
            t.parameter.grad = t.gradient
        self._taken[index] = 1

    def refresh_gradients(self) -> None:
        """Under a server: take in gradients that were replaced, made or removed since backward.

        What was changed in place (clipping, unscaling) the core finds by itself.
        """
        if self._zeroed:
            self.exchange()
            return
        if self._empty:
            return
        for index, t in enumerate(self.trainables):
            gradient = t.parameter.grad
            if (gradient is not None) != bool(self._present[index]) and self._travels(t):
                self.exchange()  # another set of parameters has gradients now
                return
            if gradient is not None and gradient is not t.gradient and self._travels(t):
                t.spare_kept_gradient()
                self._take_in(index, gradient)
                self._taken[index] = 0

    def _hand_out(self, result: bytes) -> None:
        """Make every p.grad the mean over all ranks, or None where no rank has one."""
        self._bare.clear()
        for index, t in enumerate(self.trainables):
            parameter, gradient = t.parameter, t.parameter.grad
            if not result[index]:
                if self._travels(t):
                    parameter.grad = None
                    self._bare.append(t)
            elif gradient is not None and gradient.requires_grad and self._is_own():
                continue  # it is the mean, and has a graph
            elif self._sparse_dims[index]:
                sparse = t.gradient.to_sparse(self._sparse_dims[index])
                parameter.grad = sparse.to(parameter.device)
            elif t.staged:
                if gradient is None:
                    parameter.grad = torch.empty_like(parameter).copy_(t.gradient)
                else:
                    gradient.copy_(t.gradient)
            elif gradient is not t.gradient:
                parameter.grad = t.gradient

    def forget_gradients(self) -> None:
        """The optimizer has zeroed its gradients, or let go of them.

        What was accumulated under no_sync counts no more, unless the optimizer has not all of it.
        """
        if all(t.group >= 0 or t.parameter.grad is None for t in self.trainables):
            self.samples.exchanged()
        self._zeroed = self.rounds > 0

    def keep_gradients(self) -> None:
        """Let every p.grad be what it is while the core's memory is used for others' gradients."""
        for t in self.trainables:
            if t.parameter.grad is t.gradient:
                t.part_with_gradient()
            else:
                t.spare_kept_gradient()

    # Parameters.

    def keep_layout(self) -> None:
        """Take in parameters that are not contiguous any more, as their gradients are.

        ``model.to(memory_format=torch.channels_last)`` makes them so, and fused optimizers want
        both alike.
        """
        for t in self.trainables:
            if t.staged:
                continue
            parameter, gradient = t.parameter, t.parameter.grad
            if not parameter.is_contiguous():
                readopt(t)
            if self.is_local and gradient is not None and gradient.layout is torch.strided:
                parameter.grad = gradient.contiguous()  # itself, nearly always

    def bring_parameters(self) -> bool:
        """Make the core's memory show the parameters; returns whether the user replaced any."""
        replaced = False
        for t in self.trainables:
            if t.staged:
                t.value.copy_(t.parameter.detach())
            elif t.parameter.data_ptr() != t.value_home.address:
                readopt(t)
                replaced = True
        return replaced

    def fetch_parameters(self) -> None:
        """Make the parameters show the core's memory, which the core has written."""
        for t in self.trainables:
            if t.staged:
                t.parameter.data.copy_(t.value)
        # Autograd must notice that saved values have changed.
        torch.autograd.graph.increment_version(self.parameters)

    def close(self) -> None:
        """Take the hooks off. The model stays usable by itself."""
        self.closed = True
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
