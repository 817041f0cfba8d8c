"""Optimizer state on its way between torch's optimizer and the shards of a parameter server."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import _session
from ._memory import bytes_of, tensor_on
from ._rules import SCALAR_STATE
from ._scales import export_scales, import_scales

_log = logging.getLogger("gearshift")
Entry = tuple[dict[str, np.ndarray[Any, Any]], dict[str, float]]
"""Of one parameter: element-wise state as bytes, and numbers; both by torch's names."""


def export_state(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> list[Entry]:
    """The state of these parameters, in their order."""
    return [_export(optimizer.state.get(p, {}), p) for p in parameters]


def import_state(
    optimizer: Optimizer, parameters: Sequence[nn.Parameter], entries: Sequence[Entry]
) -> None:
    """Give these parameters the state, in the form in which torch would have made it."""
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for parameter, (tensors, scalars) in zip(parameters, entries, strict=True):
        group = groups.get(id(parameter))
        if group is None:
            continue
        optimizer.state.pop(parameter, None)
        if tensors or scalars:
            optimizer.state[parameter] = _import(tensors, scalars, parameter, group)


def load_as_sent(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Give the optimizer what another rank's has, bit by bit.

    ``load_state_dict`` casts state to the dtype of its parameter; one may have another by design
    (averages in float32 of a parameter in bfloat16).
    """
    optimizer.load_state_dict(state_dict)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    keys = [key for group in state_dict["param_groups"] for key in group["params"]]
    for key, parameter in zip(keys, parameters, strict=True):
        if key in state_dict["state"] and parameter in optimizer.state:
            loaded = optimizer.state[parameter]
            optimizer.state[parameter] = _as_sent(loaded, state_dict["state"][key])


def _as_sent(loaded: Any, sent: Any) -> Any:
    if isinstance(sent, Tensor) and isinstance(loaded, Tensor):
        return loaded if loaded.dtype == sent.dtype else sent.to(loaded.device, copy=True)
    if isinstance(sent, dict) and isinstance(loaded, dict):
        for key in sent.keys() & loaded.keys():
            loaded[key] = _as_sent(loaded[key], sent[key])
    elif isinstance(sent, list) and isinstance(loaded, list) and len(sent) == len(loaded):
        loaded[:] = [_as_sent(*pair) for pair in zip(loaded, sent, strict=True)]
    return loaded


class StateBridge:
    """What the core calls at a switch, on the training thread."""

    def __init__(
        self, optimizer: Optimizer, parameters: Sequence[nn.Parameter], *, carries_state: bool
    ) -> None:
        """Made with the model.

        Args:
            optimizer: whose state it is.
            parameters: in the order of the replica.
            carries_state: some phase is a server. Else what the core would carry between ranks
                (in the dtype of the parameters, of element-wise optimizers) goes as it is, by
                `follow`.
        """
        self._optimizer = optimizer
        self._parameters = list(parameters)
        self._carries_state = carries_state

    def export_state(self) -> list[Entry]:
        """The optimizer's state, for the shards."""
        if not self._carries_state:
            return [({}, {}) for _ in self._parameters]
        return export_state(self._optimizer, self._parameters)

    def import_state(self, entries: Sequence[Entry]) -> None:
        """The shards' state, for the optimizer."""
        if self._carries_state:
            import_state(self._optimizer, self._parameters, entries)

    def export_scales(self, skipped: bool) -> bytes:
        """Scales of losses, for the other ranks; the step that ends was skipped, or not."""
        return export_scales(self._optimizer, skipped)

    def import_scales(self, data: bytes) -> None:
        """Those of another rank."""
        import_scales(data)

    def drop_state(self) -> None:
        """The shards have the state now."""
        for parameter in self._parameters:
            self._optimizer.state.pop(parameter, None)


def _export(state: dict[str, Any], parameter: nn.Parameter) -> Entry:
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    scalars: dict[str, float] = {}
    for name, value in state.items():
        if value is None:
            continue
        if isinstance(value, Tensor) and value.layout is not torch.strided:
            value = value.to_dense()  # momentum of sparse gradients
        if not isinstance(value, Tensor) or _is_scalar(name, value, parameter):
            scalars[name] = float(value)
        elif value.shape == parameter.shape:
            kept = value.to(device="cpu", dtype=parameter.dtype)
            _warn_of_rounding(name, value, kept)
            tensors[name] = bytes_of(kept)
        else:
            raise ValueError(
                f"state '{name}' has shape {tuple(value.shape)}, its parameter has "
                f"{tuple(parameter.shape)}"
            )
    return tensors, scalars


_warned_of: set[tuple[str, torch.dtype, torch.dtype]] = set()


def _warn_of_rounding(name: str, value: Tensor, kept: Tensor) -> None:
    """Servers keep state in the dtype of the parameter, in which it travels, too."""
    case = (name, value.dtype, kept.dtype)
    if value.dtype == kept.dtype or case in _warned_of or _session.rank() != 0:
        return
    if torch.equal(kept.to(value.dtype), value.cpu()):
        return
    _warned_of.add(case)
    _log.warning(
        "the optimizer's state '%s' is rounded from %s to %s on its way to the servers (or other "
        "ranks, after local SGD): it goes in the parameters' dtype",
        name,
        str(value.dtype).removeprefix("torch."),
        str(kept.dtype).removeprefix("torch."),
    )


def _is_scalar(name: str, value: Tensor, parameter: nn.Parameter) -> bool:
    """Of a parameter of one element the name tells."""
    return value.numel() == 1 and (name in SCALAR_STATE or value.shape != parameter.shape)


def _import(
    tensors: dict[str, np.ndarray[Any, Any]],
    scalars: dict[str, float],
    parameter: nn.Parameter,
    group: dict[str, Any],
) -> dict[str, Tensor]:
    on_device = bool(group.get("fused") or group.get("capturable"))
    state = {
        name: torch.tensor(
            value,
            dtype=_scalar_dtype(group),
            device=parameter.device if on_device else "cpu",
        )
        for name, value in scalars.items()
    }
    for name, memory in tensors.items():
        tensor = tensor_on(memory, parameter.dtype, parameter.shape)
        if parameter.is_contiguous():
            state[name] = tensor.to(parameter.device)
        else:  # staged; fused optimizers want both alike
            state[name] = torch.empty_like(parameter).copy_(tensor)
    return state


def _scalar_dtype(group: dict[str, Any]) -> torch.dtype:
    """As torch.optim chooses it."""
    if group.get("fused"):
        return torch.float32
    return torch.float64 if torch.get_default_dtype() == torch.float64 else torch.float32
