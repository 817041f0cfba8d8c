"""What a job is, in a line; and the command that starts the same."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from .plan import LaunchOptions
from .strategy import STRATEGY

_OPTIONS = {
    "servers": "--servers",
    "strategy": "--strategy",
    "total_steps": "--total-steps",
    "nnodes": "--nnodes",
    "node_rank": "--node-rank",
    "rdzv": "--rdzv",
    "timeout": "--timeout",
    "grace": "--grace",
    "interface": "--interface",
    "token_file": "--token-file",
    "log_dir": "--log-dir",
    "folder": "--folder",
}


def headline(options: LaunchOptions, environ: Mapping[str, str]) -> str:
    """Which file, which strategy, which world."""
    text = options.strategy or options.extra_env.get(STRATEGY) or environ.get(STRATEGY)
    strategy = f"strategy {text}" if text else "the program's own strategy"
    world = _count(options.workers, "worker")
    if options.servers:
        world += f" and {_count(options.servers, 'dedicated server')}"
    if options.nnodes > 1:
        world += f" on {options.nnodes} nodes, of which this is {options.node_rank}"
    file = "" if options.job_file is None else f"{options.job_file}: "
    return f"{file}{strategy}, {world}"


def command_line(options: LaunchOptions) -> str:
    """The command that starts the same without a job file."""
    usual = LaunchOptions(target=())
    words = ["gearshift", "run", "-n", str(options.processes)]
    for name, option in _OPTIONS.items():
        value = getattr(options, name)
        if value != getattr(usual, name):
            words += [option, _number(value) if isinstance(value, float) else str(value)]
    if options.transports:
        words += ["--transports", ",".join(options.transports)]
    for name, value in options.extra_env.items():
        words += ["--env", f"{name}={value}"]
    words += [] if options.prefix else ["--no-prefix"]
    words += {"script": [], "module": ["-m"], "executable": ["--"]}[options.kind]
    return shlex.join([*words, *options.target])


def _number(value: float) -> str:
    """Short, but the same number."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
