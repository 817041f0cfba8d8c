"""Tells the ranks that wait at a rendezvous on a port that one of them is lost.

On the launcher's own host they read it in a directory; ranks of other hosts have the store alone
that rank 0 serves. A process of its own, since the launcher neither needs the compiled core nor
waits for anybody.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping

from .plan import split_endpoint
from .process import die_with

_PATIENCE = 2.0
"""Seconds to find the store. Where there is none, rank 0 has gone or not come."""


class Teller:
    """The launcher's side."""

    def __init__(self, environment: Mapping[str, str], key: str, text: str) -> None:
        """Start to tell; `environment` is that of a rank."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, environment["GEARSHIFT_RDZV"], key, text],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with(os.getpid()),
        )

    def finish(self) -> None:
        """Wait until it has been told, or cannot be."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(3 * _PATIENCE)
        self._process.kill()
        self._process.wait()


def _main(rdzv: str, key: str, text: str) -> None:
    from .. import _core

    host, port = split_endpoint(rdzv)
    _core.store_set_once(host, port, os.environ["GEARSHIFT_TOKEN"], key, text, _PATIENCE)


if __name__ == "__main__":
    _main(*sys.argv[1:])
