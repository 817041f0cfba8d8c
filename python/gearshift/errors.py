"""What can go wrong, as exceptions.

=====================  ==========================================================================
:class:`Error`         base class of all of them, a ``RuntimeError``
:class:`PeerLost`      another process died, froze, left or gave up; ``rank`` says which
:class:`TimeoutError`  a deadline passed without progress
:class:`MismatchError` the ranks disagree on something that must be equal
:class:`Diverged`      training went non-finite or the loss ran away
:class:`InvalidArgument`  a value that you passed is wrong; also a ``ValueError``
:class:`Unsupported`   the combination asked for does not exist; the text names alternatives
=====================  ==========================================================================
"""

from __future__ import annotations

import builtins


class Error(RuntimeError):
    """Something that gearshift reports.

    Attributes:
        rank: the rank that caused it, if one did.
        code: the core's name for the kind of error, such as ``"peer_lost"``.
    """

    code = "error"

    def __init__(self, message: str, *, rank: int | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.rank = rank
        if code is not None:
            self.code = code


class PeerLost(Error):  # noqa: N818
    """Another process of the job is gone or gave up; ``rank`` says which, the text why.

    The session cannot be used any more. Uncaught, it ends the process with exit code
    :data:`gearshift.launch.EXIT_PEER_LOST`, so that this process is not taken for the culprit.
    """

    code = "peer_lost"


class TimeoutError(Error, builtins.TimeoutError):
    """A deadline passed without progress: another process did not do its part in time.

    Uncaught, it ends the process as :class:`PeerLost` does.
    """

    code = "timeout"


class MismatchError(Error):
    """The ranks disagree on something that must be equal: parameters, strategy, library version."""

    code = "mismatch"


class Diverged(Error):  # noqa: N818
    """Training went non-finite, or the loss ran away, under an asynchronous parameter server."""

    code = "diverged"


class InvalidArgument(Error, ValueError):  # noqa: N818
    """A value that the caller passed is wrong; nothing was changed."""

    code = "invalid_argument"


class Unsupported(Error):  # noqa: N818
    """The combination asked for does not exist; the text names alternatives."""

    code = "unsupported"


_CLASSES: dict[str, type[Error]] = {
    "invalid_argument": InvalidArgument,
    "mismatch": MismatchError,
    "timeout": TimeoutError,
    "peer_lost": PeerLost,
    "aborted": PeerLost,
    "closed": PeerLost,
    "unsupported": Unsupported,
    "diverged": Diverged,
    "protocol": Error,
    "unauthenticated": Error,
    "io": Error,
}


def from_core(code: str, message: str, culprit: int) -> Error:
    """The exception for an error of the core (called by it).

    Args:
        code: name of the error code.
        message: for humans.
        culprit: rank that caused it, or -1.
    """
    rank = culprit if culprit >= 0 else None
    return _CLASSES.get(code, Error)(message, rank=rank, code=code)
