"""What has to be known of the modules that a model is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from ._memory import Trainable


def sparse_dims(model: nn.Module, trainables: Sequence[Trainable]) -> list[int]:
    """Of each gradient, 0 for dense ones: for ranks that do not use a parameter in the first step.

    What is not known here is learned from the first gradient.
    """
    modules = (m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag))
    sparse = {id(m.weight) for m in modules if m.sparse}
    return [int(id(t.parameter) in sparse) for t in trainables]


def called_parts(model: nn.Module) -> Iterator[nn.Module]:
    """What is called of a container that has no forward of its own; nothing for other models."""
    if _is_container(model):
        for child in model.children():
            if _is_container(child):
                yield from called_parts(child)
            else:
                yield child


def _is_container(module: nn.Module) -> bool:
    """Judged by the object: a compiled module's class has no forward."""
    return getattr(module.forward, "__func__", None) is nn.Module.forward
