"""The first three descriptors of a process, which whoever starts it may have closed."""

from __future__ import annotations

import contextlib
import os
import sys

_STREAMS = ("stdin", "stdout", "stderr")


def open_missing() -> None:
    """Open those that are closed, on nothing.

    What is opened next would have their numbers, a socket of the job for instance, and be sent what
    this process or one that it starts writes to stdout or stderr.
    """
    for descriptor in range(len(_STREAMS)):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):  # no /dev/null here
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def replace_missing() -> None:
    """The same, and give Python streams for those it has none of: their methods are called."""
    open_missing()
    for descriptor, name in enumerate(_STREAMS):
        if getattr(sys, name) is None:
            stream = os.fdopen(descriptor, "w" if descriptor else "r", closefd=False)
            setattr(sys, name, stream)
