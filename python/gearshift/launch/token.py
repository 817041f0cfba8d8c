"""The secret that proves that a process belongs to the job."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from . import LaunchError

MIN_LENGTH = 16
"""Of a secret that people choose, in characters."""


def new_token() -> str:
    """A fresh random token (256 bits, hexadecimal)."""
    return secrets.token_hex(32)


def environment_token(environ: Mapping[str, str]) -> str | None:
    """What GEARSHIFT_TOKEN says, or the file that GEARSHIFT_TOKEN_FILE names.

    Raises:
        LaunchError: when the file cannot be read, others may read it, or it holds no token.
    """
    token, path = environ.get("GEARSHIFT_TOKEN"), environ.get("GEARSHIFT_TOKEN_FILE")
    return read_token_file(Path(path)) if not token and path else token or None


def read_token_file(path: Path) -> str:
    """Read a token from a file that only its owner can read.

    Raises:
        LaunchError: when the file cannot be read, others may read it, or it holds no token.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        with os.fdopen(descriptor, encoding="ascii") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LaunchError(f"cannot read the token file {path}: {error}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise LaunchError(f"other users may open the token file {path}; run: chmod 600 {path}")
    if len(text) < MIN_LENGTH:
        raise LaunchError(
            f"the token file {path} holds fewer than {MIN_LENGTH} characters; "
            f"make one with: (umask 077; openssl rand -hex 32 > {path})"
        )
    return text
