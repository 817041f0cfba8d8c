"""Tells the ranks that wait at a rendezvous on a port that one of them is lost.

On the launcher's own host they read it in a directory; ranks of other hosts have the store alone
that rank 0 serves. Where rank 0 is the one that is lost, nobody serves it, and they would wait for
it: then it is served here. A process of its own, since the launcher neither needs the compiled core
nor waits for anybody.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

from .plan import split_endpoint
from .process import die_with

_PATIENCE = 2.0
"""Seconds to find the store. Where there is none, rank 0 has gone or not come."""
_SERVE = "serve"


class Teller:
    """The launcher's side."""

    def __init__(self, environment: Mapping[str, str], key: str, text: str, serves: bool) -> None:
        """Start to tell; `environment` is that of a rank. `serves`: where nobody else does."""
        self._serves = serves
        how = [_SERVE] if serves else []
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, environment["GEARSHIFT_RDZV"], key, text, *how],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with(os.getpid()),
        )

    def finish(self, lingering: float) -> None:
        """Wait until it has been told, or cannot be; so long, at most, where it is served here."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(lingering if self._serves else 3 * _PATIENCE)
        self._process.kill()
        self._process.wait()


def _main(rdzv: str, key: str, text: str, *how: str) -> None:
    from .. import _core
    from ..errors import Error

    host, port = split_endpoint(rdzv)
    token = os.environ["GEARSHIFT_TOKEN"]
    server = None
    if how == (_SERVE,):
        with contextlib.suppress(Error):  # a store that is none of rank 0's
            server = _core.StoreServer(host, port, token)
    _core.store_set_once(host, port, token, key, text, _PATIENCE)
    while server is not None:
        signal.pause()  # until the launcher ends this


if __name__ == "__main__":
    _main(*sys.argv[1:])
