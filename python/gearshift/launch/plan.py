"""From the options of ``gearshift run`` to the processes to start."""

from __future__ import annotations

import ipaddress
import math
import os
import resource
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from . import DEFAULT_TIMEOUT, LaunchError
from .strategy import STRATEGY, TOTAL_STEPS, check_strategy
from .token import MIN_LENGTH, environment_token, new_token, read_token_file

TargetKind = Literal["script", "module", "executable"]
TRANSPORTS = ("tcp", "shm")

_SET_TOKEN = (
    "set the same secret on every node, for example "
    "`export GEARSHIFT_TOKEN=$(openssl rand -hex 32)` on one and its value on the others, "
    "or pass --token-file (or set GEARSHIFT_TOKEN_FILE)"
)


_OWN_FILES = 32
_FILES_OF_A_PROCESS = 2
"""Open files of the launcher: the ends of pipes from stdout and stderr."""
_NUMBERS = ("-n", "--processes", "--nnodes")
"""Options without which a job has one worker."""
_FAREWELL_SECONDS = 300.0
"""Who has less to give (a batch system, an orchestrator) kills by itself, and earlier."""


@dataclass(frozen=True)
class LaunchOptions:
    """What the user asked for."""

    target: tuple[str, ...]
    """Script, module or executable, followed by its arguments."""
    kind: TargetKind = "script"
    processes: int = 1
    """Workers on each node."""
    servers: int = 0
    """Dedicated parameter-server processes, all on node 0."""
    nnodes: int = 1
    node_rank: int = 0
    rdzv: str | None = None
    """HOST:PORT of the rendezvous; needed with several nodes only."""
    timeout: float | None = None
    grace: float | None = None
    log_dir: Path | None = None
    extra_env: Mapping[str, str] = field(default_factory=dict)
    prefix: bool = True
    interface: str | None = None
    token_file: Path | None = None
    strategy: str | None = None
    """For scripts that name none themselves."""
    total_steps: int | None = None
    transports: tuple[str, ...] = ()
    """What may be used; all, when none is named."""
    folder: Path | None = None
    """Where the processes run; None: where the launcher does."""
    job_file: Path | None = None
    """That all this was read from."""
    added: int = 0
    """The last so many arguments are the command line's, behind those of the job file."""

    @property
    def workers(self) -> int:
        """Workers on all nodes together."""
        return self.processes * self.nnodes

    @property
    def world_size(self) -> int:
        """Processes on all nodes together, dedicated servers included."""
        return self.workers + self.servers

    @property
    def local_servers(self) -> int:
        """Dedicated servers that this node starts."""
        return self.servers if self.node_rank == 0 else 0

    def grace_seconds(self, environ: Mapping[str, str]) -> float:
        """Time that the survivors of a failure have to report it themselves."""
        if self.grace is not None:
            return self.grace
        return self.timeout_seconds(environ) + 10.0

    def farewell_seconds(self) -> float:
        """Time that processes have to end when the launcher is asked to: to save a checkpoint."""
        return _FAREWELL_SECONDS if self.grace is None else self.grace

    def timeout_seconds(self, environ: Mapping[str, str]) -> float:
        """After which processes give up one that does nothing."""
        return self.timeout or _timeout_of(self, environ) or DEFAULT_TIMEOUT


@dataclass(frozen=True)
class ProcessSpec:
    """One process to start."""

    rank: int
    label: str
    """What the prefix of its output shows: "3", or "s0" for a dedicated server."""
    name: str
    """What messages call it: "rank 3" or "server 0 (rank 4)"."""
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path | None = None
    is_script: bool = True
    """A Python program, and no executable, which may stand between the launcher and one."""


def validate(options: LaunchOptions, environ: Mapping[str, str]) -> None:
    """Refuse options that cannot work, before anything is started.

    Raises:
        LaunchError: with a message that says what was wrong and what to do.
    """
    validate_numbers(options, environ)
    _validate_strategy(options)
    _validate_target(options)
    if options.nnodes > 1:
        _validate_several_nodes(options, environ)
    elif options.rdzv is not None:
        split_endpoint(options.rdzv)
    if options.interface is not None:
        _validate_interface(options.interface)


def build_plan(
    options: LaunchOptions, environ: Mapping[str, str], directory: str | None
) -> list[ProcessSpec]:
    """The processes of this node, workers first. `directory` is the rendezvous of one node."""
    shared = _shared_environment(options, environ, directory)
    first_worker = options.node_rank * options.processes
    ranks = [(first_worker + i, i) for i in range(options.processes)]
    ranks += [(options.workers + k, options.processes + k) for k in range(options.local_servers)]
    return [_spec(options, shared, rank, local_rank) for rank, local_rank in ranks]


def thread_notice(options: LaunchOptions, environ: Mapping[str, str]) -> str | None:
    """What to tell the user about the number of threads that the launcher chose, if it did."""
    local = options.processes + options.local_servers
    if local == 1 or "OMP_NUM_THREADS" in environ or "OMP_NUM_THREADS" in options.extra_env:
        return None
    cores = len(os.sched_getaffinity(0))
    return (
        f"OMP_NUM_THREADS={_threads(local)} in each of {local} processes on {cores} cores; "
        "set it yourself to choose otherwise"
    )


def servers_notice(options: LaunchOptions, environ: Mapping[str, str]) -> str | None:
    """What to tell the user who set the number of servers as for other launchers."""
    variable = "GEARSHIFT_SERVERS"
    given = options.extra_env.get(variable, environ.get(variable))
    if given is None or given == str(options.servers) or environ.get("GEARSHIFT_LAUNCHER"):
        return None
    return (
        f"{variable}={given} is for other launchers, and has no effect here: "
        f"the job has as many dedicated servers as --servers says ({options.servers})"
    )


def misplaced_notice(options: LaunchOptions) -> str | None:
    """What to tell the user whose number of processes stands where the script gets it."""
    if options.job_file is not None:
        behind, what = options.target[len(options.target) - options.added :], str(options.job_file)
        names: tuple[str, ...] = (*_NUMBERS, "--strategy")
    elif options.kind == "executable" or options.workers > 1:
        return None
    else:
        behind, what, names = options.target[1:], options.target[0], _NUMBERS
    option = next((a for a in behind if a.partition("=")[0] in names), None)
    if option is None:
        return _below_arguments(options)
    if options.job_file is not None:
        return (
            f"{option} stands behind {what}, whose program gets it; "
            "options of gearshift run stand before the file"
        )
    return (
        f"{option} stands behind {what}, which gets it; this starts one process "
        "(options of gearshift run stand before the script)"
    )


def _below_arguments(options: LaunchOptions) -> str | None:
    """The same of a job file whose number of processes stands below the head of another table."""
    own = options.target[1 : len(options.target) - options.added]
    option = next((a for a in own if a in _NUMBERS), None)
    if option is None or options.job_file is None or options.workers > 1:
        return None
    return (
        f"arguments of {options.job_file} have {option}, which its program gets; this starts one "
        "process (keys of the job stand above [arguments])"
    )


def split_endpoint(text: str) -> tuple[str, int]:
    """Split "HOST:PORT" (or "[IPv6]:PORT").

    Raises:
        LaunchError: when it has another form or the port is out of range.
    """
    host, separator, port = text.removeprefix("tcp://").rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise LaunchError(
            f"rendezvous {text!r} is not HOST:PORT with a port from 1 to 65535 "
            "(example: --rdzv node0.example.org:29500)"
        )
    return host, int(port)


def validate_numbers(options: LaunchOptions, environ: Mapping[str, str]) -> None:
    """Refuse counts and times that cannot be.

    Raises:
        LaunchError: with a message that says what was wrong.
    """
    _validate_counts(options)
    _validate_times(options, environ)


def _validate_counts(options: LaunchOptions) -> None:
    if options.processes < 1:
        raise LaunchError(f"-n {options.processes}: a node runs at least one process")
    if options.servers < 0:
        raise LaunchError(f"--servers {options.servers}: the number cannot be negative")
    if options.nnodes < 1:
        raise LaunchError(f"--nnodes {options.nnodes}: a job has at least one node")
    if not 0 <= options.node_rank < options.nnodes:
        raise LaunchError(
            f"--node-rank {options.node_rank} is outside 0…{options.nnodes - 1} "
            f"(--nnodes {options.nnodes}); node ranks count from 0"
        )
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = (files - _OWN_FILES) // _FILES_OF_A_PROCESS
    count = options.processes + options.local_servers
    if files != resource.RLIM_INFINITY and count > most:
        enough = f"enough for {most}; start fewer, or" if most > 0 else "not enough for one;"
        raise LaunchError(
            f"{count} processes on this node: the limit of open files ({files}) is {enough} "
            "raise it (ulimit -n)"
        )


def _validate_times(options: LaunchOptions, environ: Mapping[str, str]) -> None:
    for name, value in (
        ("--timeout", options.timeout),
        ("GEARSHIFT_TIMEOUT", _timeout_of(options, environ)),
    ):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise LaunchError(f"{name} {value}: give a positive number of seconds")
    if options.grace is not None and not (math.isfinite(options.grace) and options.grace >= 0):
        raise LaunchError(f"--grace {options.grace}: give zero or a positive number of seconds")


def _validate_strategy(options: LaunchOptions) -> None:
    if options.total_steps is not None and options.total_steps < 1:
        raise LaunchError(f"--total-steps {options.total_steps}: a job makes at least one step")
    if options.strategy is not None:
        try:
            check_strategy(options.strategy, options.servers)
        except LaunchError as error:
            raise LaunchError(f"--strategy: {error}") from error
    unknown = sorted(set(options.transports) - set(TRANSPORTS))
    if unknown:
        raise LaunchError(f"--transports: {unknown[0]!r} is none of {', '.join(TRANSPORTS)}")


def _timeout_of(options: LaunchOptions, environ: Mapping[str, str]) -> float | None:
    """What the variable says that processes get; empty, it says nothing."""
    text = {**environ, **options.extra_env}.get("GEARSHIFT_TIMEOUT")
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise LaunchError(f"GEARSHIFT_TIMEOUT={text!r} is not a number of seconds") from None


def _validate_target(options: LaunchOptions) -> None:
    if options.folder is not None and not options.folder.is_dir():
        raise LaunchError(f"--folder {options.folder} is no folder")
    target = options.target[0]
    if options.kind == "executable":
        if shutil.which(target) is None:
            hint = "; to start a Python script, leave -- out" if target.endswith(".py") else ""
            raise LaunchError(
                f"{target!r} is neither an executable file nor a command on PATH{hint}"
            )
    elif options.kind == "script":
        if not os.path.exists(target):
            command = os.sep not in target and shutil.which(target) is not None
            hint = f"; to start the command: gearshift run [options] -- {target} …"
            raise LaunchError(
                f"script {target!r} does not exist in {os.getcwd()}" + (hint if command else "")
            )
        if os.path.isfile(target):
            with open(target, "rb") as file:
                if file.read(4) == b"\x7fELF":
                    raise LaunchError(
                        f"{target!r} is a program, not a Python script; "
                        f"start it with: gearshift run [options] -- {target}"
                    )


def _validate_several_nodes(options: LaunchOptions, environ: Mapping[str, str]) -> None:
    if options.rdzv is None:
        raise LaunchError(
            f"--nnodes {options.nnodes} needs --rdzv HOST:PORT, an address of node 0 "
            "that all nodes can reach and a free port, the same on every node"
        )
    _validate_reachable(options.rdzv)
    if options.token_file is not None:
        return
    token = environment_token(environ)
    if token is None:
        raise LaunchError(f"a job on several nodes needs a token: {_SET_TOKEN}")
    if len(token) < MIN_LENGTH:
        raise LaunchError(
            f"GEARSHIFT_TOKEN has fewer than {MIN_LENGTH} characters, which can be guessed: "
            + _SET_TOKEN
        )


def _validate_reachable(rdzv: str) -> None:
    host, port = split_endpoint(rdzv)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise LaunchError(f"--rdzv: the host name {host!r} does not resolve ({error})") from error
    for entry in found:
        address = ipaddress.ip_address(str(entry[4][0]).partition("%")[0])
        if address.is_loopback or address.is_unspecified:
            raise LaunchError(
                f"--rdzv: {host!r} resolves to {address}, which other nodes cannot reach; "
                "give the address of node 0 on the network that the nodes share "
                "(and see /etc/hosts, where Debian maps a host's own name to 127.0.1.1)"
            )


def _validate_interface(interface: str) -> None:
    try:
        address = ipaddress.ip_address(interface)
    except ValueError:
        raise LaunchError(
            f"--interface {interface!r} is not an IP address of this node (see `ip addr`)"
        ) from None
    if address.is_unspecified:
        raise LaunchError(
            f"--interface {interface}: the other processes cannot connect to that; "
            "give the address of this node on the network that the nodes share (see `ip addr`)"
        )


def _threads(local: int) -> int:
    return max(1, len(os.sched_getaffinity(0)) // local)


def _shared_environment(
    options: LaunchOptions, environ: Mapping[str, str], directory: str | None
) -> dict[str, str]:
    local = options.processes + options.local_servers
    shared = dict(environ)
    if local > 1:
        shared.setdefault("OMP_NUM_THREADS", str(_threads(local)))
    shared.setdefault("PYTHONUNBUFFERED", "1")
    shared.update(options.extra_env)
    shared.update(
        GEARSHIFT_LAUNCHER="gearshift",
        GEARSHIFT_WORLD_SIZE=str(options.world_size),
        GEARSHIFT_SERVERS=str(options.servers),
        GEARSHIFT_LOCAL_WORLD_SIZE=str(local),
        GEARSHIFT_NNODES=str(options.nnodes),
        GEARSHIFT_NODE_RANK=str(options.node_rank),
        GEARSHIFT_RDZV=_rendezvous(options, directory),
        GEARSHIFT_TOKEN=job_token(options, environ),
    )
    shared.pop("GEARSHIFT_TOKEN_FILE", None)
    if options.timeout is not None:
        shared["GEARSHIFT_TIMEOUT"] = f"{options.timeout:g}"
    if options.interface is not None:
        shared["GEARSHIFT_INTERFACE"] = options.interface
    if options.strategy is not None:
        shared[STRATEGY] = options.strategy
    if options.total_steps is not None:
        shared[TOTAL_STEPS] = str(options.total_steps)
    if options.transports:
        shared["GEARSHIFT_TRANSPORTS"] = ",".join(options.transports)
    return shared


def _rendezvous(options: LaunchOptions, directory: str | None) -> str:
    if options.rdzv is not None:
        return "tcp://" + options.rdzv.removeprefix("tcp://")
    if directory is None:
        raise LaunchError("a job without --rdzv needs a rendezvous directory")
    return f"file://{directory}"


def job_token(options: LaunchOptions, environ: Mapping[str, str]) -> str:
    """The secret of the job: given, or a new one each time.

    Raises:
        LaunchError: when a file of it cannot be used.
    """
    if options.token_file is not None:
        return read_token_file(options.token_file)
    given = environment_token(environ) if options.nnodes > 1 else None
    return new_token() if given is None else given


def _spec(
    options: LaunchOptions, shared: Mapping[str, str], rank: int, local_rank: int
) -> ProcessSpec:
    is_server = rank >= options.workers
    server = rank - options.workers
    return ProcessSpec(
        rank=rank,
        label=f"s{server}" if is_server else str(rank),
        name=f"server {server} (rank {rank})" if is_server else f"rank {rank}",
        command=_command(options),
        environment={
            **shared,
            "GEARSHIFT_RANK": str(rank),
            "GEARSHIFT_LOCAL_RANK": str(local_rank),
        },
        folder=options.folder,
        is_script=options.kind != "executable",
    )


def _command(options: LaunchOptions) -> tuple[str, ...]:
    target, *arguments = options.target
    if options.folder is not None and options.kind != "module" and os.path.exists(target):
        target = os.path.abspath(target)  # the process runs elsewhere
    if options.kind == "executable":
        return (target, *arguments)
    if options.kind == "module":
        return (sys.executable, "-m", target, *arguments)
    return (sys.executable, target, *arguments)
