"""``gearshift store``: a rendezvous store in a process of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from . import LaunchError
from .token import environment_token, read_token_file


def serve(bind: str, token_file: Path | None) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code.

    Raises:
        LaunchError: for a bad address, a missing token, or an address that cannot be served.
    """
    host, separator, port = bind.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise LaunchError(f"{bind!r} is not HOST:PORT")
    token = _token(token_file)
    from .. import _core
    from ..errors import Error

    try:
        server = _core.StoreServer(host, int(port), token)
    except Error as error:
        raise LaunchError(f"cannot serve a store on {bind}: {error}") from error
    wanted = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    print(f"serving a rendezvous store on {server.address}", flush=True)
    signal.sigwait(wanted)
    return 0


def _token(token_file: Path | None) -> str:
    if token_file is not None:
        return read_token_file(token_file)
    token = environment_token(os.environ)
    if token is None:
        raise LaunchError(
            "a store needs the job's token: export GEARSHIFT_TOKEN=$(openssl rand -hex 32), or use "
            "--token-file or GEARSHIFT_TOKEN_FILE"
        )
    return token
