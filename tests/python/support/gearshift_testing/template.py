"""Processes that have imported PyTorch already, which takes seconds, as forks of one that has.

Run as a program this is that one: it reads requests (lines of JSON) and answers when the job is
over, until its input ends. Each fork leaves `serve`, runs the cases, and ends as every program
does.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


class Template:
    """The process to fork from. It and its forks are a process group of their own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def run(
        self,
        arguments: Sequence[str],
        environments: Sequence[Mapping[str, str]],
        logs: Sequence[tuple[Path, Path]],
        patience: float,
    ) -> list[int] | None:
        """Run worker.py with these arguments once for each environment, output and errors in files.

        Returns the exit codes, or None when it took longer, and ends all then.
        """
        request = {
            "arguments": list(arguments),
            "environments": [dict(e) for e in environments],
            "logs": [[str(out), str(err)] for out, err in logs],
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], patience)[0]:
            self.close()
            return None
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the process to fork from has ended; its errors are above")
        codes: list[int] = json.loads(answer)
        return codes

    @property
    def usable(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


_kept: list[Template] = []


def template() -> Template:
    """The one of this test process; it ends with its input, so with this process at the latest."""
    if not _kept or not _kept[0].usable:
        _kept[:] = [Template()]
    return _kept[0]


def serve() -> list[str]:
    """Returns in forks only, with the arguments of the worker."""
    for line in sys.stdin:
        request = json.loads(line)
        pids = []
        for environment, logs in zip(request["environments"], request["logs"], strict=True):
            pid = os.fork()
            if pid == 0:
                become(environment, logs)
                return request["arguments"]
            pids.append(pid)
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(codes), flush=True)
    sys.exit()


def become(environment: Mapping[str, str], logs: Sequence[str]) -> None:
    """Give this process its environment and files."""
    os.environ.clear()
    os.environ.update(environment)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for stream, path in enumerate(logs, start=1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.dup2(file, stream)
        os.close(file)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from gearshift_testing import worker

    for slow in ("torch", "torch._dynamo", "gearshift.torch"):  # the first optimizer imports dynamo
        importlib.import_module(slow)
    path, *names = serve()
    worker.main(path, names)
