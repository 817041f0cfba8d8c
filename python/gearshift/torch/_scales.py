"""Scales of losses, which gradient scalers keep: of each rank, and of all before All-Reduce."""

from __future__ import annotations

import gc
import pickle
from typing import Any

import torch
from torch.amp import GradScaler
from torch.optim import Optimizer

from ._made import made, noted, of_kind


def enabled(scalers: list[GradScaler]) -> list[GradScaler]:
    """Those that scale anything."""
    return [s for s in scalers if s.is_enabled()]


def back_off(optimizer: Optimizer) -> None:
    """Tell the gradient scaler that is about to end a step of the optimizer that it overflowed.

    It did so on another rank, and nobody's gradient was applied: in one process, and under
    All-Reduce, every rank's scaler would have seen it.
    """
    for scaler in enabled(made(GradScaler)):
        for found in _found(scaler, optimizer):
            found.fill_(1)


def scales_of(optimizer: Optimizer) -> list[float]:
    """By which losses were multiplied whose gradients this step of the optimizer applies."""
    scalers = enabled(of_kind(GradScaler, noted()))
    return [s.get_scale() for s in scalers if id(optimizer) in s._per_optimizer_states]


Packed = tuple[dict[str, Any], bool, bool, dict[str, Any]]
"""The state of a scaler, whether ``update()`` is still to come, after an overflow, and what the
state will be then."""


def pack(scaler: GradScaler, skipped: bool = False) -> Packed:
    """A scaler for another rank.

    Args:
        scaler: within a step, perhaps, which may end in a join or a switch.
        skipped: that step was left out, perhaps for the gradients of another rank.
    """
    state, found = scaler.state_dict(), _found(scaler)
    overflow = skipped or any(bool(f) for f in found)
    return state, bool(found), overflow, _updated(state, overflow) if found else state


def unpack(scaler: GradScaler, packed: Packed) -> None:
    """Make a scaler what it is on another rank when both have been updated."""
    state, pending, overflow, after = packed
    found = _found(scaler)
    if found and not pending:  # it counts one step more than there was
        state, overflow = state | {"_growth_tracker": state["_growth_tracker"] - 1}, False
    scaler.load_state_dict(state if found else after)
    for value in found:
        value.fill_(float(overflow))


def export_scales(optimizer: Optimizer, skipped: bool) -> bytes:
    """In a step of the optimizer: its scalers, for the other ranks.

    Args:
        optimizer: whose step it is.
        skipped: it was left out.
    """
    used = {k: s for k, s in _named().items() if id(optimizer) in s._per_optimizer_states}
    return pickle.dumps({key: pack(scaler, skipped) for key, scaler in used.items()})


def import_scales(data: bytes) -> None:
    """Make this rank's scalers what they are on the rank that has exported them."""
    packed = pickle.loads(data)
    if not packed:
        return
    for key, scaler in _named().items():
        if key in packed:
            unpack(scaler, packed[key])


def _found(scaler: GradScaler, optimizer: Optimizer | None = None) -> list[torch.Tensor]:
    """What a scaler has found so far: 0, or 1 for an overflow, in gradients of the optimizer."""
    states = scaler._per_optimizer_states
    chosen = list(states.values()) if optimizer is None else [states.get(id(optimizer), {})]
    return [f for state in chosen for f in state.get("found_inf_per_device", {}).values()]


def _updated(state: dict[str, Any], overflow: bool) -> dict[str, Any]:
    """The state of a scaler after ``update()``."""
    scale = torch.tensor(state["scale"], dtype=torch.float32, device="cpu")
    tracker = torch.tensor(state["_growth_tracker"], dtype=torch.int32, device="cpu")
    torch._amp_update_scale_(
        scale,
        tracker,
        torch.tensor(float(overflow), device="cpu", dtype=torch.float32),
        state["growth_factor"],
        state["backoff_factor"],
        state["growth_interval"],
    )
    return state | {"scale": scale.item(), "_growth_tracker": int(tracker)}


def _named() -> dict[tuple[str, int], GradScaler]:
    """All scalers, under names that are equal on all ranks."""
    found = _numbered(enabled(made(GradScaler)))
    if any(number > 0 for _, number in found):
        gc.collect()  # what is dead has a name still where the collector did not run
        found = _numbered(enabled(made(GradScaler)))
    return found


def _numbered(scalers: list[GradScaler]) -> dict[tuple[str, int], GradScaler]:
    found: dict[tuple[str, int], GradScaler] = {}
    for scaler in scalers:
        name, number = type(scaler).__qualname__, 0
        while (name, number) in found:
            number += 1
        found[name, number] = scaler
    return found
