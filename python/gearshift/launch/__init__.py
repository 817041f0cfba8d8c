"""Start the processes of a job, and find out how a process was started.

Nothing in this package needs torch, NumPy or gearshift's compiled core, so ``gearshift run``
starts at once and works in an environment where they are broken.

* :mod:`gearshift.launch.plan` turns options into the processes to start (command, environment).
* :mod:`gearshift.launch.job` starts them, passes on their output and signals, and ends them.
* :mod:`gearshift.launch.environment` is the other side: what a process learns from its
  environment, whoever started it.
"""

from __future__ import annotations

EXIT_PEER_LOST = 75
"""Exit code of a process that ends because it lost a peer: it is a victim, not the culprit."""

DEFAULT_TIMEOUT = 30.0
"""Seconds after which a silent peer counts as lost, unless GEARSHIFT_TIMEOUT says otherwise."""


class LaunchError(Exception):
    """A job that cannot be started as asked; the message says why and what to do."""


__all__ = ["DEFAULT_TIMEOUT", "EXIT_PEER_LOST", "LaunchError"]
