"""Arrays of any library as memory that the core works on: address, bytes, dtype.

Nothing here imports torch: a tensor is known by its methods.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

DTYPES = ("float64", "float32", "float16", "bfloat16", "int8", "uint8", "int32", "int64")


class Array(Protocol):
    """Memory of elements of one dtype, contiguous."""

    dtype: str
    plain: bool
    """Whether the bytes are all that there is to the elements: no references to objects."""
    shape: tuple[int, ...]
    address: int
    nbytes: int

    def finish(self) -> None:
        """Make the changes visible in the user's array, when they were made in a copy."""

    def empty(self, shape: Sequence[int]) -> tuple[Any, Array]:
        """A new array of the same library and dtype."""

    def copy(self) -> Array:
        """A copy of the contents, in memory of its own."""


class _NumpyArray:
    def __init__(self, array: np.ndarray[Any, Any], target: np.ndarray[Any, Any] | None = None):
        self._array = array
        self._target = target
        self.dtype = array.dtype.name
        self.plain = not array.dtype.hasobject
        self.shape: tuple[int, ...] = array.shape
        self.address = int(array.ctypes.data)
        self.nbytes = int(array.nbytes)

    def finish(self) -> None:
        if self._target is not None:
            self._target[...] = self._array

    def empty(self, shape: Sequence[int]) -> tuple[Any, Array]:
        made = np.empty(tuple(shape), dtype=self._array.dtype)
        return made, _NumpyArray(made)

    def copy(self) -> Array:
        return _NumpyArray(self._array.copy())


class _TensorArray:
    def __init__(self, tensor: Any, target: Any = None):
        self._tensor = tensor
        self._target = target
        self.dtype = str(tensor.dtype).removeprefix("torch.")
        self.plain = not tensor.is_quantized
        self.shape: tuple[int, ...] = tuple(tensor.shape)
        self.address = int(tensor.data_ptr())
        self.nbytes = int(tensor.numel() * tensor.element_size())

    def finish(self) -> None:
        if self._target is not None:
            self._target.copy_(self._tensor)
        else:
            # Autograd must notice that saved values have changed.
            sys.modules["torch"].autograd.graph.increment_version(self._tensor)

    def empty(self, shape: Sequence[int]) -> tuple[Any, Array]:
        made = self._tensor.new_empty(tuple(shape))
        return made, _TensorArray(made)

    def copy(self) -> Array:
        return _TensorArray(self._tensor.clone())


def view(x: Any, *, writable: bool = True, reduced: bool = False) -> Array:
    """`x` as memory; of a non-contiguous array a copy, which `finish` copies back.

    Args:
        x: a NumPy array, a CPU tensor of torch, or an object with ``__array_interface__`` or
            ``__dlpack__``.
        writable: whether `x` is going to be changed.
        reduced: whether its elements are going to be combined with others, and not only moved.

    Raises:
        TypeError: for anything else, for an accelerator's tensor, and for elements that cannot be
            combined, or moved.
        ValueError: when `x` is to be changed and is read-only.
    """
    array = _wrap(x, writable)
    if reduced and array.dtype not in DTYPES:
        hint = "; of bools, reduce the view as uint8" if array.dtype == "bool" else ""
        raise TypeError(
            f"elements of type {array.dtype} cannot be reduced; {', '.join(DTYPES)} can{hint}"
        )
    if not array.plain:
        raise TypeError(f"elements of type {array.dtype} do not travel")
    return array


def _wrap(x: Any, writable: bool) -> Array:
    if isinstance(x, np.ndarray):
        return _wrap_numpy(x, writable)
    if hasattr(x, "data_ptr") and hasattr(x, "is_contiguous"):
        return _wrap_tensor(x)
    for attribute, convert in _CONVERSIONS:
        if hasattr(x, attribute) and not isinstance(x, np.generic):
            return _wrap_numpy(convert(x), writable)
    raise TypeError(
        f"{type(x).__name__} is no array: pass a NumPy array or a CPU tensor"
        + (" (a number: np.array([x]))" if isinstance(x, int | float | np.generic) else "")
    )


_CONVERSIONS: tuple[tuple[str, Callable[[Any], np.ndarray[Any, Any]]], ...] = (
    ("__array_interface__", np.asarray),
    ("__dlpack__", np.from_dlpack),
)


def _wrap_numpy(x: np.ndarray[Any, Any], writable: bool) -> Array:
    if writable and not x.flags.writeable:
        raise ValueError("the array is read-only, and the result would be written to it")
    if not x.dtype.isnative:
        raise TypeError(f"elements of type {x.dtype.str} have the other byte order")
    if x.flags.c_contiguous:
        return _NumpyArray(x)
    return _NumpyArray(np.ascontiguousarray(x), x)


def _wrap_tensor(x: Any) -> Array:
    if x.device.type != "cpu":
        raise TypeError(f"a tensor on {x.device}: collectives take CPU tensors, pass x.cpu()")
    if str(x.layout) != "torch.strided":
        raise TypeError(f"a tensor of layout {x.layout}: pass x.to_dense()")
    x = x.detach()
    if x.is_conj() or x.is_neg():
        raise TypeError(
            "a lazily conjugated or negated tensor: pass x.resolve_conj().resolve_neg()"
        )
    if x.is_contiguous():
        return _TensorArray(x)
    return _TensorArray(x.contiguous(), x)
