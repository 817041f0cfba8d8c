"""The measured program's side of the driver: orders come in, reports go out.

bench/README.md describes the contract. Nothing here needs more than the standard library, so that a
program which measures a peer loads nothing of gearshift's but this.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any

ENVIRONMENT = "GEARSHIFT_BENCH_GATE"
"""Path of the Unix socket on which the driver waits."""

Order = dict[str, str]


class Gate:
    """Where a measured process waits for its turn.

    Iterate over it for the orders, and answer each with :meth:`report`. Without a driver there is
    one order, from the program's arguments, and the report of rank 0 goes to standard output.
    """

    def __init__(self, rank: int, arguments: Sequence[str] | None = None) -> None:
        """Meet the driver. Call it when everything is set up that is not to be measured.

        Args:
            rank: this process's, among the ranks of its side.
            arguments: ``sys.argv[1:]`` when None.
        """
        self._rank = rank
        self._arguments = sys.argv[1:] if arguments is None else list(arguments)
        self._socket: socket.socket | None = None
        path = os.environ.get(ENVIRONMENT)
        if path:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.connect(path)
            self._send(f"rank {rank}\n")

    def __iter__(self) -> Iterator[Order]:
        if self._socket is None:
            yield parse_order(self._arguments)
            return
        with self._socket, self._socket.makefile("r", encoding="ascii") as orders:
            for line in orders:
                yield parse_order(line.split())

    def report(
        self, *, seconds: Sequence[float], verified: bool, problem: str = "", **more: Any
    ) -> None:
        """Answer the order.

        Args:
            seconds: time of one operation, for each batch.
            verified: whether the result was checked and right.
            problem: what was wrong with it.
            more: further numbers, and `operations`.
        """
        report = {"seconds": list(seconds), "verified": verified, **more}
        if problem:
            report["problem"] = problem
        line = json.dumps(report) + "\n"
        if self._socket is not None:
            self._send(line)
        elif self._rank == 0:
            print(line, end="", flush=True)

    def _send(self, line: str) -> None:
        assert self._socket is not None
        self._socket.sendall(line.encode("ascii"))


def parse_order(words: Sequence[str]) -> Order:
    """``["bytes=4096", "batches=5"]`` as a dict; words without ``=`` are left out."""
    pairs = (word.partition("=") for word in words if "=" in word and not word.startswith("-"))
    return {key: value for key, _, value in pairs}
