"""gearshift: train one model on many machines, and choose how they share what they learn.

::

    import gearshift as gs, gearshift.torch as gst

    gs.init()
    model, optimizer = gst.distribute(model, optimizer, strategy=gs.StrategySwitch())

Start such a script with ``gearshift run -n 4 train.py``; it also runs under torchrun, mpirun and
srun, and alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import (
    Diverged,
    Error,
    InvalidArgument,
    MismatchError,
    PeerLost,
    TimeoutError,
    Unsupported,
)
from .strategy import (
    ASP,
    BSP,
    SSP,
    AllReduce,
    At,
    Buffered,
    LocalSGD,
    LossPlateau,
    ParameterServer,
    StrategySwitch,
)

if TYPE_CHECKING:
    __version__: str
    from ._collectives import (
        all_gather,
        all_reduce,
        all_to_all,
        barrier,
        broadcast,
        recv,
        reduce_scatter,
        send,
        zeros,
    )
    from ._session import init, is_initialized, local_rank, rank, shutdown, world_size
    from .sim.simulation import simulate

__all__ = [
    "ASP",
    "BSP",
    "SSP",
    "AllReduce",
    "At",
    "Buffered",
    "Diverged",
    "Error",
    "InvalidArgument",
    "LocalSGD",
    "LossPlateau",
    "MismatchError",
    "ParameterServer",
    "PeerLost",
    "StrategySwitch",
    "TimeoutError",
    "Unsupported",
    "all_gather",
    "all_reduce",
    "all_to_all",
    "barrier",
    "broadcast",
    "init",
    "is_initialized",
    "local_rank",
    "rank",
    "recv",
    "reduce_scatter",
    "send",
    "shutdown",
    "simulate",
    "world_size",
    "zeros",
]

_SESSION = {"init", "is_initialized", "local_rank", "rank", "shutdown", "world_size"}


def __getattr__(name: str) -> Any:
    """What needs the compiled core is loaded at its first use: ``gearshift run`` does without."""
    if name == "__version__":
        return _version()
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _SESSION:
        from . import _session as module
    elif name == "simulate":
        from .sim import simulation as module  # type: ignore[no-redef]
    else:
        from . import _collectives as module  # type: ignore[no-redef]
    value = getattr(module, name)
    globals()[name] = value  # the next time it is found without this function
    return value


def __dir__() -> list[str]:
    """What is loaded at its first use is there, too: shells complete it."""
    return sorted({*globals(), *__all__, "__version__"})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("gearshift")
    except PackageNotFoundError:  # run from a checkout that nobody installed
        return "0+unknown"
