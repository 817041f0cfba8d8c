"""Reductions of tensors of any dtype by any operation that torch.distributed has."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ReduceOp

from ... import _core
from ...errors import Unsupported

_NATIVE = {
    torch.float64: "float64",
    torch.float32: "float32",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.int8: "int8",
    torch.uint8: "uint8",
    torch.int32: "int32",
    torch.int64: "int64",
}
_OPS = {
    ReduceOp.SUM: "sum",
    ReduceOp.AVG: "mean",
    ReduceOp.PRODUCT: "product",
    ReduceOp.MIN: "min",
    ReduceOp.MAX: "max",
}
_NAMES = {**_OPS, ReduceOp.BAND: "bitwise and", ReduceOp.BOR: "bitwise or", ReduceOp.BXOR: "xor"}
_LOGICAL = {
    **dict.fromkeys(("sum", "max", "bitwise or"), "max"),
    **dict.fromkeys(("product", "min", "bitwise and"), "min"),
}
"""What does the same with bytes of 0 and 1."""
_BLOCK_BYTES = 1 << 20
"""Of one rank, when all ranks' elements are gathered first."""
_PAIRWISE: dict[str, Callable[[Any, Any], Any]] = {
    "sum": operator.add,
    "product": operator.mul,
    "min": torch.minimum,
    "max": torch.maximum,
    "bitwise and": operator.and_,
    "bitwise or": operator.or_,
    "xor": operator.xor,
}


class Reduction:
    """How elements of one dtype are combined by one operation.

    Args:
        op: a ReduceOp, or one of its values.

    Raises:
        Unsupported: for an operation that there is not, for such elements.
    """

    def __init__(self, dtype: torch.dtype, op: Any) -> None:
        kind = getattr(op, "op", op)
        if kind not in _NAMES:
            raise Unsupported(
                f"{kind} is no operation of the gearshift backend; SUM, AVG, PRODUCT, MIN, MAX, "
                "BAND, BOR and BXOR are"
            )
        self.name = _NAMES[kind]
        self.dtype = dtype
        real = dtype.is_floating_point or dtype.is_complex
        bitwise = self.name in ("bitwise and", "bitwise or", "xor")
        if (real and bitwise) or (dtype.is_complex and self.name in ("min", "max")):
            raise Unsupported(f"{kind} of elements of type {dtype} is not defined")
        if dtype in (torch.bool, torch.uint64) and self.name == "mean":
            raise Unsupported(f"AVG of {dtype} is not there; reduce a float tensor")

    @property
    def core(self) -> tuple[torch.dtype, str] | None:
        """The dtype and the operation by which the core does the same, if it can."""
        if self.dtype == torch.bool and self.name in _LOGICAL:
            return torch.uint8, _LOGICAL[self.name]
        if self.dtype == torch.complex64 and self.name in ("sum", "mean"):
            return torch.float32, self.name
        if self.dtype == torch.complex128 and self.name in ("sum", "mean"):
            return torch.float64, self.name
        if self.dtype in _NATIVE and self.name in _OPS.values():
            return self.dtype, self.name
        return None

    @property
    def _overflows(self) -> bool:
        """Whether the sum may need more bits than its mean has."""
        return self.dtype == torch.int64 and self.name == "mean"

    def all_reduce(
        self, session: _core.Session, flat: Tensor, timeout: float, background: bool = False
    ) -> None:
        """In place, of a contiguous tensor. Collective.

        Args:
            background: other threads compute meanwhile, and want the processor.
        """
        core = self.core
        if core is None:
            self._gathered(session, flat.view(-1), timeout)
            return
        if self._overflows:
            parts = _divided(flat, session.world_size)
            _SUM.all_reduce(session, parts, timeout, background)
            flat.copy_(_mean(parts, session.world_size))
            return
        dtype, op = core
        session.all_reduce(flat.data_ptr(), flat.nbytes, _NATIVE[dtype], op, timeout, background)

    def reduce_scatter(
        self, session: _core.Session, scratch: Tensor, out: Tensor, timeout: float
    ) -> None:
        """Part r of `scratch`, which has as many elements as all ranks' `out`, to rank r's `out`.

        Both are contiguous; what `scratch` has afterwards is unspecified. Collective.
        """
        core = self.core
        if core is None:
            self._gathered(session, scratch.view(-1), timeout)
            part = scratch.view(-1)[session.rank * out.numel() : (session.rank + 1) * out.numel()]
            out.copy_(part.view(out.shape))
            return
        if self._overflows:
            size = session.world_size
            parts = _divided(scratch.view(size, -1), size).transpose(0, 1).contiguous()
            sums = torch.empty((2, *out.shape), dtype=out.dtype)
            _SUM.reduce_scatter(session, parts, sums, timeout)
            out.copy_(_mean(sums, size))
            return
        dtype, op = core
        session.reduce_scatter(
            scratch.data_ptr(),
            scratch.nbytes,
            out.data_ptr(),
            out.nbytes,
            _NATIVE[dtype],
            op,
            timeout,
        )

    def _gathered(self, session: _core.Session, flat: Tensor, timeout: float) -> None:
        """Every rank combines what all ranks have, in the order of ranks."""
        size, rank = session.world_size, session.rank
        for block in flat.split(max(1, _BLOCK_BYTES // flat.element_size())):
            everybody = torch.empty((size, block.numel()), dtype=flat.dtype)
            everybody[rank].copy_(block)
            session.all_gather(everybody.data_ptr(), everybody.nbytes, timeout)
            block.copy_(self._combined(everybody))

    def _combined(self, everybody: Tensor) -> Tensor:
        """Of the first dimension."""
        if everybody.dtype == torch.uint64:
            # Signed numbers wrap alike; the offset keeps the order.
            offset = torch.iinfo(torch.int64).min if self.name in ("min", "max") else 0
            return (self._folded(everybody.view(torch.int64) ^ offset) ^ offset).view(torch.uint64)
        plain = everybody.dtype in _NATIVE or everybody.dtype == torch.bool
        if plain or everybody.dtype.is_complex:
            return self._folded(everybody)
        # Kinds of elements that torch itself can hardly add: 8-bit floats, unsigned integers.
        real = everybody.dtype.is_floating_point
        return self._folded(everybody.to(torch.float32 if real else torch.int64))

    def _folded(self, everybody: Tensor) -> Tensor:
        mean = self.name == "mean"
        combine = _PAIRWISE["sum" if mean else self.name]
        result = everybody[0].clone()
        for other in everybody[1:]:
            result = combine(result, other)
        if not mean:
            return result
        if result.dtype == torch.int64:
            return torch.div(result, len(everybody), rounding_mode="trunc")
        return result / len(everybody)


_SUM = Reduction(torch.int64, ReduceOp.SUM)


def _divided(numbers: Tensor, by: int) -> Tensor:
    """What int64 sums do not overflow with: quotients, rounded down, and then remainders."""
    quotients = torch.div(numbers, by, rounding_mode="floor")
    return torch.stack([quotients, numbers - quotients * by])


def _mean(sums: Tensor, size: int) -> Tensor:
    """Of `size` numbers that were divided so and summed up; rounded towards zero."""
    quotients, remainders = sums
    rounded_down = quotients + torch.div(remainders, size, rounding_mode="floor")
    return rounded_down + ((rounded_down < 0) & (remainders % size != 0))
