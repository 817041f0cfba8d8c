"""Simulation of training: what it is fed with, how it is run, and what it says.

::

    result = gs.simulate("cluster.toml", "workload.toml", "all_reduce")
    print(result.summary())

Nothing here needs torch, and only a simulation needs the compiled core.
"""

from __future__ import annotations
