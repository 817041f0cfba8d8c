"""The process that `template.py` forks from, as a program.

Each fork leaves `serve` and becomes what `python ARGUMENTS` would be.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import select
import sys
import types
from pathlib import Path
from typing import Any


def serve() -> list[str]:
    """Returns in forks only, with their arguments."""
    numbers: dict[int, int] = {}  # of forks, by a descriptor that can be read from when it ends
    unread = b""
    while True:
        for ready in select.select([0, *numbers], [], [])[0]:
            if ready != 0:
                status = os.waitid(os.P_PIDFD, ready, os.WEXITED)
                assert status is not None
                ended = status.si_code != os.CLD_EXITED
                answer("code", numbers.pop(ready), -status.si_status if ended else status.si_status)
                os.close(ready)
                continue
            text = os.read(0, 1 << 20)
            if not text:
                sys.exit()
            *lines, unread = (unread + text).split(b"\n")
            for request in map(json.loads, lines):
                for one in request["forks"]:
                    pid = os.fork()
                    if pid == 0:
                        for descriptor in numbers:
                            os.close(descriptor)
                        become(request["folder"], one["environment"], one["logs"])
                        return request["arguments"]
                    numbers[os.pidfd_open(pid)] = one["number"]
                    answer("pid", one["number"], pid)


def answer(kind: str, number: int, value: int) -> None:
    """A line for the other side."""
    os.write(1, json.dumps([kind, number, value]).encode() + b"\n")


def become(folder: str, environment: dict[str, str], logs: list[str]) -> None:
    """Give this process its folder, environment, files, and random numbers."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    for stream, path in enumerate(logs, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(file, stream)
        os.close(file)
    for text in (sys.stdout, sys.stderr):
        text.reconfigure(write_through=True)  # type: ignore[union-attr]
    random.seed()
    sys.modules["numpy"].random.seed()


def spare_destructors() -> None:
    """Have what C++ libraries that are loaded by now would destroy at exit left to the system.

    PyTorch's registries would take two thirds of the time of a fork that does nothing else. What is
    loaded later is destroyed as ever, for the last that is registered is the first that is called.
    """
    libc = ctypes.CDLL(None)
    libc.on_exit(libc._exit, None)


def main_module(name: str) -> dict[str, Any]:
    """The names of a new `__main__`, which a program may pickle classes of."""
    module = types.ModuleType("__main__")
    module.__file__ = name
    sys.modules["__main__"] = module
    return module.__dict__


def run(arguments: list[str]) -> None:
    """What `python ARGUMENTS` does: a file, `-c TEXT` or `-m MODULE`, and its own arguments."""
    first, *others = arguments
    if first == "-m":
        sys.argv = others
        sys.path[0] = os.getcwd()
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
        return
    if first == "-c":
        sys.argv, sys.path[0], text = ["-c", *others[1:]], "", others[0]
        code = compile(text, "<string>", "exec")
    else:
        sys.argv, sys.path[0] = arguments, str(Path(first).resolve().parent)
        code = compile(Path(first).read_bytes(), first, "exec")
    exec(code, main_module(first))


if __name__ == "__main__":
    gc.disable()
    theirs = [module for module in sys.argv[1:] if not module.startswith("gearshift")]
    for module in theirs:  # once for all
        importlib.import_module(module)
    spare_destructors()
    for module in sys.argv[1:]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # forks' collectors need not look at, nor copy, half a million objects of modules
    gc.enable()
    run(serve())
