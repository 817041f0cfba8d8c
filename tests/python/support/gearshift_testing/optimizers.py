"""Optimizers of a user's own, which servers must import."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Warm(Optimizer):
    """Element-wise, and unlike those of torch: `lr` has no default, `warmup` counts, `mode` is no
    number; `count` is a number of Python's, `eta` an element-wise state with the name of a number
    of ASGD's.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        warmup: int = 3,
        decays: bool = True,
        mode: str = "mean",
        rule: Callable[[Tensor], Tensor] = torch.tanh,
    ) -> None:
        options = {"lr": lr, "warmup": warmup, "decays": decays, "mode": mode, "rule": rule}
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update."""
        for group in self.param_groups:
            assert isinstance(group["decays"], bool)
            factor = 1.0 if group["mode"] == "mean" else 1e3
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["count"] = 0
                    state["eta"] = torch.ones_like(p)
                    state["average"] = torch.zeros_like(p)
                state["count"] += 1
                warm = sum(float(state["count"]) > k for k in range(group["warmup"]))
                state["average"].lerp_(p.grad, 0.1)
                if group["decays"]:
                    state["eta"].mul_(1 - 0.1 * group["rule"](state["average"]).abs())
                rate = factor * group["lr"] * warm / group["warmup"]
                p.sub_(rate * state["eta"] * state["average"])


class Factor(torch.optim.SGD):
    """Its step takes one more argument."""

    def step(self, closure: Any = None, factor: float = 1.0) -> Any:
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            group["lr"] *= factor
        result = super().step(closure)
        for group, rate in zip(self.param_groups, rates, strict=True):
            group["lr"] = rate
        return result


class Smooth(Optimizer):
    """Whose state is float32 of parameters in bfloat16, and a number."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["mean"] = torch.zeros_like(p, dtype=torch.float32)
                    state["decay"] = 0.9
                state["mean"].mul_(float(state["decay"])).add_(p.grad.float(), alpha=0.1)
                p.copy_((p.float() - group["lr"] * state["mean"]).to(p.dtype))
