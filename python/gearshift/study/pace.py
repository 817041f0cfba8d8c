"""How long the computation of each worker takes in each step: as the simulator has it."""

from __future__ import annotations

from ..sim.inputs import Source
from ..sim.messages import Fidelity, Request
from ..sim.processes import Pool
from ..strategy import ASP, ParameterServer

_FORWARD = 0.01
"""Long in proportion to the simulator's nanoseconds, and short to its deadlines."""


def factors(cluster: Source, workload: Source, steps: int, seed: int) -> list[list[float]]:
    """By worker and step, how many times as long as the workload says computation takes.

    Speed of the host, variability and stragglers are in it, and the same numbers as in a simulation
    of this seed: they are read from one, of workers who only compute.

    Raises:
        InvalidArgument: for a cluster or a workload that is wrong.
    """
    document = {
        "forward": _FORWARD,
        "backward": 1e-9,
        "parameters": [{"name": "number", "shape": [1], "ready": 0}],
    }
    variability = workload.document().get("variability")
    if variability is not None:
        document["variability"] = variability
    computing = workload.changed(document, "no communication")
    request = Request(
        cluster.text,
        cluster.name,
        computing.text,
        computing.name,
        ParameterServer(ASP()),
        steps=steps,
        seed=seed,
        fidelity=Fidelity("none", every_step=True),
    )
    return [
        [(done - begin) / _FORWARD for begin, done in zip(w["begin"], w["computed"], strict=True)]
        for w in Pool().run(request)["workers"]
    ]
