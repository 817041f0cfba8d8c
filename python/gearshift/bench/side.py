"""One side of a comparison: its processes, from their start to their end, and its turns."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .case import Network, Side
from .gate import ENVIRONMENT
from .hosts import INTERFACE, Hosts
from .interrupts import uninterrupted
from .place import command_of

START_PATIENCE = 90.0
TURN_PATIENCE = 120.0
_END_PATIENCE = 10.0
_HURRY = 1.0
"""The same where the whole run is ended: who sends SIGTERM may send SIGKILL ten seconds later."""
_PORT = 29400
_LONGEST = 70
"""Bytes of a folder's path in which a socket can be: of its own path, 107 are allowed."""


class SideError(Exception):
    """A process ended, hangs, or reports nonsense; the message says which and why."""


@dataclass(frozen=True)
class Turn:
    """What one side reported about its turn in one round."""

    seconds: float
    """Of one operation: the slowest rank's of each batch, and the median of the batches."""
    problem: str
    """Empty when all ranks have checked the result and found it right."""
    operations: int
    more: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
    """For people; of rank 0."""


@dataclass(frozen=True)
class Places:
    """Where a side's ranks run."""

    ranks: int
    network: Network | None = None
    hosts: Hosts | None = None

    def node_of(self, rank: int, world: int) -> int:
        """The host of a rank; `world` counts dedicated servers, too."""
        return 0 if self.network is None else self.network.host_of(rank, world)

    def local_rank(self, rank: int, world: int) -> tuple[int, int]:
        """The number of a rank among those of its host, and how many these are."""
        node = self.node_of(rank, world)
        here = [r for r in range(world) if self.node_of(r, world) == node]
        return here.index(rank), len(here)


class RunningSide:
    """The processes of a side. Use it in a `with` statement: they are ended there."""

    def __init__(
        self,
        side: Side,
        places: Places,
        folder: Path,
        number: int,
        end_patience: float = _END_PATIENCE,
    ) -> None:
        """Prepare, without starting anything.

        Args:
            side: whose processes these are.
            places: how many ranks there are, and where.
            folder: for the log files.
            number: of the side among those that run at the same time; sides do not share ports.
            end_patience: seconds that processes have to end by themselves.
        """
        self.side = side
        self._places = places
        self._folder = folder
        self._number = number
        self._end_patience = end_patience
        self._private = tempfile.TemporaryDirectory(prefix="gearshift-bench-", dir=_short())
        self.processes: list[subprocess.Popen[bytes]] = []
        self._gates: dict[int, socket.socket] = {}
        self._unread: dict[int, bytes] = {}

    def __enter__(self) -> RunningSide:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.end(min(_HURRY, self._end_patience) if interrupted else None)

    def start(self) -> None:
        """Start all processes, and wait until each has come to the gate.

        Raises:
            SideError: when one ends before, or does not come.
        """
        if not self.side.gated:
            return
        path = str(Path(self._private.name) / "gate")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(path)
            listener.listen(self._places.ranks)
            self._launch({ENVIRONMENT: path}, ())
            self._gather(listener)

    def turn(self, order: Mapping[str, int | str], patience: float = TURN_PATIENCE) -> Turn:
        """Let all ranks do what the order says, and sum up what they report.

        Raises:
            SideError: when a process ends, or takes too long.
        """
        if not self.side.gated:
            return self._run_once(order, patience)
        line = (" ".join(f"{key}={value}" for key, value in order.items()) + "\n").encode("ascii")
        for gate in self._gates.values():
            gate.sendall(line)
        deadline = time.monotonic() + patience
        lines = {rank: self._read_line(rank, deadline) for rank in self._gates}
        return summed_up([_parsed(lines[rank]) for rank in sorted(lines)])

    def end(self, patience: float | None = None) -> None:
        """Let the processes end, and end those that do not; at once when Ctrl-C comes meanwhile.

        Args:
            patience: seconds for that, instead of what was given to the constructor.
        """
        for gate in self._gates.values():
            gate.close()
        self._gates.clear()
        try:
            self._wait(self._end_patience if patience is None else patience)
        finally:
            with uninterrupted():
                self._end_running()
                self._private.cleanup()

    def _wait(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))

    def _end_running(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self.processes:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, number)
            self._wait(3.0)
        self.processes.clear()

    # Starting

    def _launch(self, extra: Mapping[str, str], words: Sequence[str]) -> None:
        self.processes = []
        command = [*command_of(self.side), *words]
        world = self._places.ranks + self.side.servers
        if self.side.start == "fork":
            command += ["--ranks", str(self._places.ranks)]
            self._spawn(0, command, extra)
        elif self.side.start == "mpirun":
            self._spawn(0, [*_mpirun(self._places.ranks), *command], extra)
        else:
            private = Path(self._private.name)
            common = {**extra, **self._common_environment(world, private)}
            for rank in range(world):
                self._spawn(rank, command, {**common, **self._rank_environment(rank, world)})

    def _spawn(self, rank: int, command: Sequence[str], extra: Mapping[str, str]) -> None:
        hosts = self._places.hosts
        world = self._places.ranks + self.side.servers
        within = [] if hosts is None else hosts.enter(self._places.node_of(rank, world))
        base = self._folder / f"{_file_name(self.side.name)}-{rank}"
        with base.with_suffix(".out").open("wb") as out, base.with_suffix(".err").open("wb") as err:
            process = subprocess.Popen(
                [*within, *command],
                env={**_clean_environment(), **self.side.env, **extra},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.processes.append(process)

    def _common_environment(self, world: int, private: Path) -> dict[str, str]:
        hosts = self._places.hosts
        rendezvous = Path(tempfile.mkdtemp(prefix="rendezvous-", dir=private))
        first = "127.0.0.1" if hosts is None else hosts.address(0)
        port = _free_port() if hosts is None else _PORT + 100 + self._number
        tcp = f"tcp://{first}:{_PORT + self._number}"
        network = self._places.network
        return {
            "GEARSHIFT_WORLD_SIZE": str(world),
            "GEARSHIFT_SERVERS": str(self.side.servers),
            "GEARSHIFT_NNODES": str(1 if network is None else network.hosts),
            "GEARSHIFT_RDZV": f"file://{rendezvous}" if hosts is None else tcp,
            "GEARSHIFT_TOKEN": secrets.token_hex(16),
            "XDG_CACHE_HOME": str(private),  # links are measured, and not remembered
            "WORLD_SIZE": str(world),
            "MASTER_ADDR": first,
            "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": "lo" if hosts is None else INTERFACE,
            "TP_SOCKET_IFNAME": "lo" if hosts is None else INTERFACE,
        }

    def _rank_environment(self, rank: int, world: int) -> dict[str, str]:
        local, count = self._places.local_rank(rank, world)
        return {
            "GEARSHIFT_RANK": str(rank),
            "GEARSHIFT_LOCAL_RANK": str(local),
            "GEARSHIFT_LOCAL_WORLD_SIZE": str(count),
            "GEARSHIFT_NODE_RANK": str(self._places.node_of(rank, world)),
            "RANK": str(rank),
            "LOCAL_RANK": str(local),
            "LOCAL_WORLD_SIZE": str(count),
        }

    def _gather(self, listener: socket.socket) -> None:
        listener.settimeout(0.1)
        deadline = time.monotonic() + START_PATIENCE
        while len(self._gates) < self._places.ranks:
            self._check_alive("before it came to the gate")
            if time.monotonic() > deadline:
                missing = sorted(set(range(self._places.ranks)) - set(self._gates))
                raise SideError(f"ranks {missing} have not started{self._last_words()}")
            with contextlib.suppress(TimeoutError):
                gate, _ = listener.accept()
                gate.settimeout(START_PATIENCE)
                rank = int(_read_until_newline(gate).split()[1])
                gate.setblocking(False)
                self._gates[rank], self._unread[rank] = gate, b""

    # Turns

    def _read_line(self, rank: int, deadline: float) -> bytes:
        gate = self._gates[rank]
        with selectors.DefaultSelector() as selector:
            selector.register(gate, selectors.EVENT_READ)
            while b"\n" not in self._unread[rank]:
                if not selector.select(0.5):
                    self._check_alive("in its turn")
                    if time.monotonic() > deadline:
                        raise SideError(f"rank {rank} does not answer{self._last_words()}")
                    continue
                try:
                    received = gate.recv(1 << 16)
                except ConnectionError:
                    received = b""
                if not received:
                    raise SideError(f"rank {rank} has left its gate{self._last_words()}")
                self._unread[rank] += received
        line, _, self._unread[rank] = self._unread[rank].partition(b"\n")
        return line

    def _run_once(self, order: Mapping[str, int | str], patience: float) -> Turn:
        self._launch({}, [f"{key}={value}" for key, value in order.items()])
        deadline = time.monotonic() + patience
        for process in self.processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise SideError(f"it does not end{self._last_words()}") from None
        self._check_alive("in its turn", ended_well=True)
        out = (self._folder / f"{_file_name(self.side.name)}-0.out").read_bytes()
        reports = [line for line in out.splitlines() if line.startswith(b"{")]
        if not reports:
            raise SideError(f"rank 0 reported nothing{self._last_words()}")
        return summed_up([_parsed(reports[-1])])

    def _check_alive(self, when: str, ended_well: bool = False) -> None:
        for number, process in enumerate(self.processes):
            code = process.poll()
            if code is None or (ended_well and code == 0):
                continue
            raise SideError(f"process {number} ended ({code}) {when}{self._last_words()}")

    def _last_words(self) -> str:
        """The ends of the processes' standard errors."""
        time.sleep(0.2)  # they may be about to say why
        words = []
        for path in sorted(self._folder.glob(f"{_file_name(self.side.name)}-*.err")):
            lines = path.read_text(errors="replace").strip().splitlines()
            words += [f"\n  {path.name}: {line}" for line in lines[-3:]]
        return "".join(words)


def summed_up(reports: Sequence[Mapping[str, Any]]) -> Turn:
    """The reports of all ranks, in order, as one.

    Raises:
        SideError: when no rank has measured anything.
    """
    measured = [report["seconds"] for report in reports if report["seconds"]]
    if not measured:
        raise SideError("no rank has measured anything")
    problems = [
        f"rank {rank}: {report.get('problem') or 'not verified'}"
        for rank, report in enumerate(reports)
        if not report["verified"]
    ]
    known = ("seconds", "verified", "problem", "operations")
    more = {
        key: float(value)
        for key, value in reports[0].items()
        if key not in known and isinstance(value, int | float)
    }
    return Turn(
        seconds=statistics.median(max(batch) for batch in zip(*measured, strict=False)),
        problem="; ".join(problems),
        operations=int(reports[0].get("operations", 0)),
        more=more,
        note=str(reports[0].get("note", "")),
    )


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        report = json.loads(line)
        return {**report, "seconds": list(report["seconds"]), "verified": bool(report["verified"])}
    except (ValueError, KeyError, TypeError) as error:
        raise SideError(f"no report: {line[:200]!r}") from error


def _read_until_newline(gate: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = gate.recv(1)
        if not byte:
            raise SideError("a process left at the gate")
        line += byte
    return line


def _mpirun(ranks: int) -> list[str]:
    command = ["mpirun", "-np", str(ranks)]
    if os.geteuid() == 0:
        command.append("--allow-run-as-root")
    if ranks > (os.cpu_count() or 1):
        command += ["--oversubscribe", "--mca", "mpi_yield_when_idle", "1"]
    return command


def _short() -> str:
    """Where temporary files belong, unless the path of a socket has no room there."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) <= _LONGEST else "/tmp"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _clean_environment() -> dict[str, str]:
    """This environment without what a launcher around it may have set."""
    prefixes = ("GEARSHIFT_", "OMPI_", "PMI", "TORCHELASTIC_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(prefixes)}
    return {**kept, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name.lower())
