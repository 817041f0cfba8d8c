"""What a process learns from its environment about the job that it is part of.

Understood are, in this order: ``gearshift run``, torchrun, Open MPI's ``mpirun``, MPICH and other
launchers that speak PMI, Slurm's ``srun``, and whoever sets RANK, WORLD_SIZE, MASTER_ADDR and
MASTER_PORT, as PyTorch's ``env://`` has them (Kubernetes' PyTorchJob, scripts). A process that none
of them started is a world of one. Only the environment and, on one host, a private directory are
looked at: no network.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from . import LaunchError
from .host_store import HostJob, open_host_store, user_token
from .plan import split_endpoint
from .token import environment_token

_SPECIAL_SLURM_STEPS = 0xFFFFFFF0
"""Slurm's batch, interactive and extern steps have ids from here on: shells, not tasks of a job."""

_SLURM_PORTS = range(20000, 30000)
"""Below those that systems give to connections."""

_TOKEN_HELP = (
    "set the same secret in every process: `export GEARSHIFT_TOKEN=$(openssl rand -hex 32)` "
    "before the launcher (and have it passed on: mpirun -x GEARSHIFT_TOKEN), or "
    "GEARSHIFT_TOKEN_FILE=/path to a file of mode 600 that all nodes see"
)


@dataclass(frozen=True)
class ProcessEnvironment:
    """The place of this process in its job."""

    rank: int = 0
    """0 … world_size - 1; the last `servers` ranks are dedicated parameter servers."""
    world_size: int = 1
    """All processes of the job, dedicated servers included."""
    servers: int = 0
    local_rank: int = 0
    local_world_size: int = 1
    nnodes: int = 1
    node_rank: int = 0
    """Under mpirun, which does not tell, computed as if all nodes held as many ranks as this."""
    launcher: str = "none"
    """"gearshift", "torchrun", "openmpi", "pmi", "slurm", "env" (RANK and its like) or "none"."""
    rdzv: str | None = None
    """"file:///dir" or "tcp://HOST:PORT" (served by rank 0); None for a world of one."""
    rdzv_is_guessed: bool = False
    """Nobody has said it: Slurm's name of a node, which need not be one that systems know."""
    token: str | None = None
    timeout: float | None = None
    interface: str | None = None
    needs_torch_store: bool = False
    """Several hosts under torchrun: the rendezvous has to go through torchrun's own store."""

    @property
    def is_server(self) -> bool:
        """Whether this process is a dedicated parameter server."""
        return self.rank >= self.world_size - self.servers

    def __repr__(self) -> str:
        shown = {**self.__dict__, "token": None if self.token is None else "<secret>"}
        fields = ", ".join(f"{name}={value!r}" for name, value in shown.items())
        return f"ProcessEnvironment({fields})"


def detect(environ: Mapping[str, str] | None = None) -> ProcessEnvironment:
    """Find out who started this process and what its place in the job is.

    Raises:
        LaunchError: when the variables contradict each other, or when a job on several hosts has
            no token or no rendezvous address; the message says what to set.
    """
    variables = _Variables(os.environ if environ is None else environ)
    for is_source, read in _SOURCES:
        if is_source(variables):
            return _complete(read(variables), variables)
    return _complete(ProcessEnvironment(), variables)


def nested_notice(nnodes: int, environ: Mapping[str, str]) -> str | None:
    """What to tell the user whose launcher starts several of this one, as if they were one job."""
    variables = _Variables(environ)
    if nnodes > 1 or variables.has("GEARSHIFT_RANK"):
        return None
    try:
        found = [read(variables) for is_source, read in _SOURCES if is_source(variables)]
    except LaunchError:
        return None
    if not found or found[0].world_size == 1 or found[0].rank > 0:
        return None
    return (
        f"{found[0].world_size} of these commands are started side by side, and each runs a job of "
        "its own; for one job, have that launcher start the script itself, or give each host one "
        "gearshift run with --nnodes, --node-rank and --rdzv"
    )


def lonely_notice(environ: Mapping[str, str] | None = None) -> str | None:
    """What to tell the user of a world of one that Slurm has given room for more, but not srun."""
    variables = _Variables(os.environ if environ is None else environ)
    tasks = variables.text("SLURM_NTASKS") or ""
    if not tasks.isdecimal() or int(tasks) < 2 or not variables.has("SLURM_JOB_ID"):
        return None
    if any(is_source(variables) for is_source, _ in _SOURCES):
        return None
    return (
        f"Slurm has room for {tasks} tasks in this job, and this process trains alone, for it was "
        "not started by srun: `srun python train.py` starts one in each"
    )


class _Variables:
    """Environment variables with errors that name the variable."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def has(self, *names: str) -> bool:
        return all(self.text(name) is not None for name in names)

    def text(self, name: str) -> str | None:
        return self._environ.get(name) or None

    def token(self) -> str | None:
        return environment_token(self._environ)

    def integer(self, *names: str, default: int | None = None) -> int:
        """The first variable of `names` that is set."""
        for name in names:
            text = self.text(name)
            if text is None:
                continue
            if not text.isdecimal():
                raise LaunchError(f"{name}={text!r} is not a whole number from 0 on")
            return int(text)
        if default is None:
            raise LaunchError(
                f"{' or '.join(names)} is not set, although other variables of the same launcher "
                "are; pass on all of them"
            )
        return default

    def seconds(self, name: str) -> float | None:
        text = self.text(name)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise LaunchError(f"{name}={text!r} is not a positive number of seconds")
        return value


def _from_gearshift(variables: _Variables) -> ProcessEnvironment:
    world_size = variables.integer("GEARSHIFT_WORLD_SIZE")
    return ProcessEnvironment(
        rank=variables.integer("GEARSHIFT_RANK"),
        world_size=world_size,
        local_rank=variables.integer("GEARSHIFT_LOCAL_RANK", default=0),
        local_world_size=variables.integer("GEARSHIFT_LOCAL_WORLD_SIZE", default=1),
        nnodes=variables.integer("GEARSHIFT_NNODES", default=1),
        node_rank=variables.integer("GEARSHIFT_NODE_RANK", default=0),
        launcher="gearshift",
    )


def _from_torchrun(variables: _Variables) -> ProcessEnvironment:
    world_size = variables.integer("WORLD_SIZE")
    local = variables.integer("LOCAL_WORLD_SIZE", default=world_size)
    return ProcessEnvironment(
        rank=variables.integer("RANK"),
        world_size=world_size,
        local_rank=variables.integer("LOCAL_RANK"),
        local_world_size=local,
        nnodes=variables.integer("GROUP_WORLD_SIZE", default=_ceil_div(world_size, local)),
        node_rank=variables.integer("GROUP_RANK", default=0),
        launcher="torchrun",
    )


def _from_open_mpi(variables: _Variables) -> ProcessEnvironment:
    return _by_local_size(
        launcher="openmpi",
        rank=variables.integer("OMPI_COMM_WORLD_RANK"),
        world_size=variables.integer("OMPI_COMM_WORLD_SIZE"),
        local_rank=variables.integer("OMPI_COMM_WORLD_LOCAL_RANK"),
        local=variables.integer("OMPI_COMM_WORLD_LOCAL_SIZE"),
    )


def _from_pmi(variables: _Variables) -> ProcessEnvironment:
    return _by_local_size(
        launcher="pmi",
        rank=variables.integer("PMI_RANK"),
        world_size=variables.integer("PMI_SIZE"),
        local_rank=variables.integer("MPI_LOCALRANKID", "PMI_LOCAL_RANK"),
        local=variables.integer("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"),
    )


def _is_pmi(variables: _Variables) -> bool:
    """Not ``srun --mpi=pmi2``, which leaves it to Slurm's own variables who shares a host."""
    if not variables.has("PMI_RANK", "PMI_SIZE"):
        return False
    local = variables.has("MPI_LOCALRANKID") or variables.has("PMI_LOCAL_RANK")
    return local or not _is_slurm_task(variables)


def _from_slurm(variables: _Variables) -> ProcessEnvironment:
    world_size = variables.integer("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    nnodes = variables.integer("SLURM_STEP_NUM_NODES", "SLURM_NNODES", default=1)
    node_rank = variables.integer("SLURM_NODEID", default=0)
    return ProcessEnvironment(
        rank=variables.integer("SLURM_PROCID"),
        world_size=world_size,
        local_rank=variables.integer("SLURM_LOCALID"),
        local_world_size=_slurm_local_size(variables, world_size, nnodes, node_rank),
        nnodes=nnodes,
        node_rank=node_rank,
        launcher="slurm",
    )


def _slurm_local_size(variables: _Variables, world_size: int, nnodes: int, node: int) -> int:
    if nnodes == 1:
        return world_size
    text = variables.text("SLURM_STEP_TASKS_PER_NODE") or variables.text("SLURM_TASKS_PER_NODE")
    sizes: list[int] = []
    for part in (text or "").split(","):  # such as "2(x3),1"
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if match is not None:
            sizes += [int(match[1])] * int(match[2] or 1)
    return sizes[node] if node < len(sizes) else _ceil_div(world_size, nnodes)


def _is_slurm_task(variables: _Variables) -> bool:
    """In a step that srun started, not in the shell of sbatch or salloc."""
    if not variables.has("SLURM_PROCID", "SLURM_LOCALID"):
        return False
    step = variables.text("SLURM_STEP_ID") or variables.text("SLURM_STEPID") or ""
    return step.isdecimal() and int(step) < _SPECIAL_SLURM_STEPS


def _slurm_rendezvous(variables: _Variables) -> str | None:
    """On the step's first host, where rank 0 is, at a port that steps side by side do not share."""
    nodes = variables.text("SLURM_STEP_NODELIST") or variables.text("SLURM_NODELIST") or ""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)  # of "gpu[07-09,12],cpu1": "gpu[07-09,12]"
    host = re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0] if first else "")
    if not re.fullmatch(r"[\w.-]+", host):
        return None
    job = variables.integer("SLURM_JOB_ID", "SLURM_JOBID", default=0)
    step = variables.integer("SLURM_STEP_ID", "SLURM_STEPID", default=0)
    return f"tcp://{host}:{_SLURM_PORTS[0] + (31 * job + step) % len(_SLURM_PORTS)}"


def _from_variables(variables: _Variables) -> ProcessEnvironment:
    """Without a word of who shares a host, as in Kubernetes, each process has one to itself."""
    rank, world_size = variables.integer("RANK"), variables.integer("WORLD_SIZE")
    together = _is_loopback(variables.text("MASTER_ADDR") or "")
    local = variables.integer("LOCAL_WORLD_SIZE", default=world_size if together else 1)
    nnodes = _ceil_div(world_size, local)
    return ProcessEnvironment(
        rank=rank,
        world_size=world_size,
        local_rank=variables.integer("LOCAL_RANK", default=rank % max(local, 1)),
        local_world_size=local,
        nnodes=nnodes,
        node_rank=min(rank // max(local, 1), nnodes - 1),
        launcher="env",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


_SOURCES: tuple[
    tuple[Callable[[_Variables], bool], Callable[[_Variables], ProcessEnvironment]], ...
] = (
    (lambda v: v.has("GEARSHIFT_RANK") or v.has("GEARSHIFT_WORLD_SIZE"), _from_gearshift),
    (lambda v: v.has("TORCHELASTIC_RUN_ID", "RANK", "WORLD_SIZE"), _from_torchrun),
    (lambda v: v.has("OMPI_COMM_WORLD_RANK"), _from_open_mpi),
    (_is_pmi, _from_pmi),
    (_is_slurm_task, _from_slurm),
    (lambda v: v.has("RANK", "WORLD_SIZE"), _from_variables),
)

_RANK_VARIABLES = {
    "torchrun": ("RANK", "TORCHELASTIC_RUN_ID"),
    "openmpi": ("OMPI_COMM_WORLD_RANK",),
    "pmi": ("PMI_RANK", "MPI_LOCALRANKID", "PMI_LOCAL_RANK"),
    "slurm": ("SLURM_PROCID",),
}
"""For each launcher what its ranks have, and it has not itself: the first alone may be left over
from another launcher that started it."""

_JOB_VARIABLES = {
    "torchrun": ("MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"),
    "openmpi": ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"),
    "pmi": ("PMI_JOBID",),
    "slurm": ("SLURM_JOB_ID", "SLURM_STEP_ID"),
}
"""For each launcher those that name the job."""


def _by_local_size(
    *, launcher: str, rank: int, world_size: int, local_rank: int, local: int
) -> ProcessEnvironment:
    local = max(local, 1)
    nnodes = _ceil_div(world_size, local)
    return ProcessEnvironment(
        rank=rank,
        world_size=world_size,
        local_rank=local_rank,
        local_world_size=local,
        nnodes=nnodes,
        node_rank=min(rank // local, nnodes - 1),
        launcher=launcher,
    )


def _complete(found: ProcessEnvironment, variables: _Variables) -> ProcessEnvironment:
    """Add what does not depend on the launcher, and check the whole."""
    found = replace(
        found,
        servers=variables.integer("GEARSHIFT_SERVERS", default=0),
        timeout=variables.seconds("GEARSHIFT_TIMEOUT"),
        interface=variables.text("GEARSHIFT_INTERFACE"),
    )
    _check_ranges(found)
    if found.world_size == 1:
        return found
    found = replace(found, token=variables.token(), rdzv=_rendezvous(variables))
    if found.launcher == "gearshift":
        return _check_complete(found)
    if found.launcher == "env":
        return _at_master(found, variables)
    if found.local_world_size == found.world_size:
        return _on_one_host(found, variables)
    if found.token is None:
        raise LaunchError(f"{found.launcher} runs this job on several hosts: {_TOKEN_HELP}")
    if found.rdzv is None and found.launcher == "torchrun":
        return replace(found, needs_torch_store=True)
    if found.rdzv is None and found.launcher == "slurm":
        found = replace(found, rdzv=_slurm_rendezvous(variables), rdzv_is_guessed=True)
    if found.rdzv is None:
        raise LaunchError(
            f"{found.launcher} runs this job on several hosts: set GEARSHIFT_RDZV=HOST:PORT in "
            "every process, an address of the host of rank 0 that all can reach and a free port"
        )
    return found


def _at_master(found: ProcessEnvironment, variables: _Variables) -> ProcessEnvironment:
    """Rank 0 serves the rendezvous where PyTorch's ``env://`` would have it."""
    said = f"RANK={found.rank} and WORLD_SIZE={found.world_size} say that this is one of several"
    if found.rdzv is None:
        host, port = variables.text("MASTER_ADDR"), variables.text("MASTER_PORT")
        if host is None or port is None:
            raise LaunchError(
                f"{said} processes, but not where they meet: set MASTER_ADDR and MASTER_PORT (or "
                "GEARSHIFT_RDZV=HOST:PORT) in each, an address of the host of rank 0 that all can "
                "reach and a free port; to train alone, unset RANK and WORLD_SIZE"
            )
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        split_endpoint(f"{host}:{port}")
        found = replace(found, rdzv=f"tcp://{host}:{port}")
    if found.token is None:
        if found.local_world_size < found.world_size:
            raise LaunchError(
                f"{said} processes, maybe on several hosts (on one, set "
                f"LOCAL_WORLD_SIZE={found.world_size}): {_TOKEN_HELP}"
            )
        found = replace(found, token=user_token())
    return found


def _check_ranges(found: ProcessEnvironment) -> None:
    if found.world_size < 1 or found.rank >= found.world_size:
        raise LaunchError(
            f"rank {found.rank} does not fit a world of {found.world_size} "
            f"(variables of {found.launcher})"
        )
    if found.servers >= found.world_size:
        raise LaunchError(
            f"GEARSHIFT_SERVERS={found.servers} leaves no worker in a world of "
            f"{found.world_size} processes; start more processes or fewer servers"
        )


def _check_complete(found: ProcessEnvironment) -> ProcessEnvironment:
    missing = [
        name
        for name, value in (("GEARSHIFT_RDZV", found.rdzv), ("GEARSHIFT_TOKEN", found.token))
        if value is None
    ]
    if missing:
        raise LaunchError(
            f"{' and '.join(missing)} must be set for a world of {found.world_size}; "
            "`gearshift run` sets everything"
        )
    return found


def _rendezvous(variables: _Variables) -> str | None:
    text = variables.text("GEARSHIFT_RDZV")
    if text is None:
        return None
    if text.startswith("file://"):
        if not text.startswith("file:///"):
            raise LaunchError(f"GEARSHIFT_RDZV={text!r}: give an absolute path, file:///…")
        return text
    split_endpoint(text)
    return "tcp://" + text.removeprefix("tcp://")


def _on_one_host(found: ProcessEnvironment, variables: _Variables) -> ProcessEnvironment:
    if found.rdzv is not None and found.token is not None:
        return found
    names = tuple(variables.text(name) or "" for name in _JOB_VARIABLES[found.launcher])
    store = open_host_store(HostJob(found.launcher, _RANK_VARIABLES[found.launcher], names))
    return replace(
        found,
        rdzv=found.rdzv or f"file://{store.directory}",
        token=found.token or store.token,
    )


def _ceil_div(a: int, b: int) -> int:
    return -(-a // max(b, 1))
