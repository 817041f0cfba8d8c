"""The process of one simulation: ``python -m gearshift.sim.child``.

The network simulator can be set up only once in a process. The request comes on stdin; on stdout go
("step", n), and at last ("result", …) or ("error", …).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import sys
import threading
import traceback
from typing import Any, BinaryIO

from .. import strategy
from ..errors import Error
from . import extension, learning, messages
from .messages import Request

_PR_SET_PDEATHSIG = 1


def main() -> None:
    # The thread below that sees the parent go gets its turn between steps only, and a step of a
    # thousand workers takes minutes.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that the simulator prints comes between the messages
    try:
        answer: tuple[str, Any] = ("result", _simulate(_read_request(), out))
    except Error as error:
        answer = ("error", (error.code, extension.without_line(str(error)), error.rank))
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # an orderly end would wait for the thread that reads stdin
    _send(out, answer)
    os._exit(0)  # what the network simulator takes down takes long, and nobody needs it


def _read_request() -> Request:
    try:
        request: Request = messages.read(sys.stdin.buffer)
    except (AttributeError, ImportError) as error:
        raise Error(
            f"the strategy cannot be loaded in the simulation's process: {error}; a policy must be "
            "a function at the top of a module that can be imported",
            code="invalid_argument",
        ) from error
    threading.Thread(target=_end_with_parent, daemon=True).start()
    return request


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # returns when the other end is closed
    os._exit(1)


def _simulate(request: Request, out: BinaryIO) -> dict[str, Any]:
    cluster = extension.describe_cluster(request.cluster_text, request.cluster_name)
    simulate = functools.partial(
        extension.load().simulate,
        cluster_text=request.cluster_text,
        cluster_name=request.cluster_name,
        workload_text=request.workload_text,
        workload_name=request.workload_name,
        strategy=strategy.to_core(request.strategy, request.steps),
        steps=request.steps,
        seed=request.seed,
        timeline=request.timeline,
        timeout=request.timeout,
        detection=request.after_failure.detection,
        # The core's integers are shorter than Python's.
        checkpoint_every=min(request.after_failure.checkpoint_every, request.steps + 1),
        sharing=request.fidelity.sharing,
        every_step=request.fidelity.every_step,
        steady_tolerance=request.fidelity.steady_tolerance,
        on_step=lambda step: _send(out, ("step", step)),
    )
    if request.train is not None:
        result = learning.learn(request, cluster["workers"], simulate)
    else:
        result = simulate(optimizer=request.optimizer)
    return result | {"cluster": cluster}


def _send(out: BinaryIO, message: tuple[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        out.write(messages.encode(message))
        out.flush()


if __name__ == "__main__":
    main()
