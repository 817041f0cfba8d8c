"""Learns of a script that ends itself with an exit code, ``sys.exit(1)``, before it has ended.

Python calls no hook for SystemExit, and has forgotten the code when it calls what atexit has.
"""

from __future__ import annotations

import builtins
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn


def note_exits(tell: Callable[[str], None]) -> None:
    """Have `tell` called when sys.exit (or exit, quit) ends this process with another code than 0.

    Not when somebody catches its SystemExit, nor in other threads, which alone it ends. A bare
    ``raise SystemExit(1)`` goes unnoticed.
    """
    for module, name in ((sys, "exit"), (builtins, "exit"), (builtins, "quit")):
        if hasattr(module, name):
            setattr(module, name, _noting(getattr(module, name), tell))


def _noting(original: Callable[..., NoReturn], tell: Callable[[str], None]) -> Callable[..., Any]:
    def leave(code: Any = None, /) -> NoReturn:
        orderly = code is None or (isinstance(code, int) and code == 0)
        if orderly or threading.current_thread() is not threading.main_thread():
            original(code)
        raise _Exit(tell, code)

    leave.__name__ = leave.__qualname__ = "exit"
    return leave


class _Exit(SystemExit):
    """A SystemExit that tells when nobody has caught it."""

    def __init__(self, tell: Callable[[str], None], code: Any) -> None:
        super().__init__(code)
        self.tell = tell

    def __reduce__(self) -> tuple[type[SystemExit], tuple[Any, ...]]:
        return SystemExit, self.args

    def __del__(self) -> None:
        # The interpreter drops what nobody caught when the last frame of the script has gone.
        if sys._getframe().f_back is None and (
            threading.current_thread() is threading.main_thread()
        ):
            self.tell(f"sys.exit({self.code!r})")


_Exit.__name__ = _Exit.__qualname__ = "SystemExit"
