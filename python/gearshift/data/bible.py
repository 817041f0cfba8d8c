"""A book of 4.4 million characters: the King James Bible, of Debian's ``bible-kjv-text``.

The file is that of the programs ``bible`` and ``randverse``: pieces of 65,536 characters that are
compressed each by itself, as ``compress`` does it. ``gzip``, which every Debian has, reads these.
"""

from __future__ import annotations

import os
import struct
import subprocess
from itertools import pairwise
from pathlib import Path

from .dataset_error import DatasetError

DEFAULT_FILE = Path("/usr/lib/bible.data")
VARIABLE = "GEARSHIFT_BIBLE"

_HELP = (
    "install it with `sudo apt-get install bible-kjv-text`, "
    f"or name such a file, or one of plain text, in {VARIABLE}"
)
_MAGIC = b"EC02Compressed Data File"
_TABLE = 0x54
"""Where the size of a piece stands, as big-endian 32-bit integer; then how many there are, where
each of them begins, and where the last one ends."""
_COMPRESS = b"\x1f\x9d\x90"
"""What files of ``compress`` begin with; left out in the pieces."""


def load(path: Path | None = None) -> str:
    """Read the book: a line per verse, "Ge1:1 In the beginning God created …".

    Args:
        path: the file; by default $GEARSHIFT_BIBLE, else Debian's. One that does not begin as
            Debian's does is taken for plain text.

    Raises:
        DatasetError: when the file is missing or damaged.
    """
    if path is None:
        path = Path(os.environ.get(VARIABLE) or DEFAULT_FILE)
    try:
        data = path.read_bytes()
    except OSError as error:
        where = path.absolute()  # jobs may run elsewhere than where the variable was set
        raise DatasetError(f"cannot read the book {where}: {error.strerror}; {_HELP}") from error
    try:
        return (_unpacked(data) if data.startswith(_MAGIC) else data).decode("ascii")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is no English text: {error}; {_HELP}") from error
    except ValueError as error:
        raise DatasetError(f"{path} is damaged: {error}; {_HELP}") from error


def _unpacked(data: bytes) -> bytes:
    """The text of Debian's file.

    Raises:
        ValueError: saying what is wrong with it.
    """
    try:
        size, count = struct.unpack_from(">II", data, _TABLE)
        places = struct.unpack_from(f">{count + 1}I", data, _TABLE + 8)
    except struct.error as error:
        raise ValueError(f"its table ends too soon ({error})") from error
    if list(places) != sorted(places) or places[-1] != len(data):
        raise ValueError(f"its {len(data)} bytes are not those of its table")
    pieces = [_piece(data[a:b]) for a, b in pairwise(places)]
    wrong = [i for i, piece in enumerate(pieces[:-1]) if len(piece) != size]
    if wrong:
        raise ValueError(f"piece {wrong[0]} has {len(pieces[wrong[0]])} characters, not {size}")
    return b"".join(pieces)


def _piece(packed: bytes) -> bytes:
    try:
        done = subprocess.run(
            ["gzip", "-dc"], input=_COMPRESS + packed, capture_output=True, check=False
        )
    except FileNotFoundError as error:
        raise DatasetError("the program gzip, which unpacks the book, is missing") from error
    if done.returncode != 0:
        raise ValueError(done.stderr.decode(errors="replace").strip())
    return done.stdout
