"""Layers of a network as a simulation sees them: parameters and multiplications.

Multiply-accumulates (MACs) per sample are counted for convolutions, dense layers and the products
of attention; what is done element by element (normalisation, activation, pooling) counts as none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """A part of the network, in forward's order."""

    parameters: tuple[tuple[str, Shape], ...]
    macs: int = 0
    """In forward, per sample."""


@dataclass(frozen=True)
class Network:
    """An architecture with the input that its MACs are counted for."""

    name: str
    source: str
    """Whose names and order of parameters these are, and of what input."""
    batch_size: int
    optimizer: str
    """"SGD with momentum" or "AdamW"."""
    layers: tuple[Layer, ...]

    @property
    def elements(self) -> int:
        """Numbers in all parameters."""
        return sum(math.prod(shape) for layer in self.layers for _, shape in layer.parameters)

    @property
    def macs(self) -> int:
        """In forward, per sample."""
        return sum(layer.macs for layer in self.layers)


def convolution(
    name: str, inputs: int, outputs: int, kernel: int, side: int, *, bias: bool = False
) -> Layer:
    """A square kernel; `side` is the height and width of what comes out."""
    shape = (outputs, inputs, kernel, kernel)
    parameters: list[tuple[str, Shape]] = [(f"{name}.weight", shape)]
    if bias:
        parameters.append((f"{name}.bias", (outputs,)))
    return Layer(tuple(parameters), math.prod(shape) * side * side)


def dense(
    name: str, inputs: int, outputs: int, tokens: int = 1, *, transposed: bool = False
) -> Layer:
    """A matrix with a bias, applied to each token; transposed: stored inputs first."""
    shape = (inputs, outputs) if transposed else (outputs, inputs)
    return Layer(
        ((f"{name}.weight", shape), (f"{name}.bias", (outputs,))), inputs * outputs * tokens
    )


def normalisation(name: str, width: int) -> Layer:
    """BatchNorm or LayerNorm."""
    return Layer(((f"{name}.weight", (width,)), (f"{name}.bias", (width,))))


def embedding(name: str, rows: int, width: int) -> Layer:
    """A table of vectors."""
    return Layer(((f"{name}.weight", (rows, width)),))


def products(inner: int, tokens: int) -> Layer:
    """What attention multiplies besides its dense layers: queries by keys, weights by values.

    Over all heads, whose widths add up to `inner`; every token with every other, as is computed
    where a mask hides some afterwards.
    """
    return Layer((), 2 * tokens * tokens * inner)


def product_with(rows: int, width: int, tokens: int) -> Layer:
    """A product with a matrix that is a parameter of another layer."""
    return Layer((), rows * width * tokens)
