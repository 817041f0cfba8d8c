"""What may come to the ports of a running job: the job finishes unharmed, and says what it refused.

The job talks TCP and has a TCP rendezvous, so that rank 0 serves a store and every rank listens.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import random
import re
import socket
import struct
import subprocess
from pathlib import Path

import pytest

from gearshift import _core

RANKS = 3
STEPS = 500
MOST_WARNINGS = 200
"""Of about a thousand refusals in the worst test."""
PURPOSE_LINK, PURPOSE_STORE = 0x4C494E4B, 0x53544F52
GREETING = struct.Struct("<8sIIIiIIQ32s")
VERDICT = struct.Struct("<I32s")


def ports_of(pid: int) -> list[int]:
    """TCP ports that a process listens on."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.update(re.findall(r"socket:\[(\d+)\]", str(link.readlink())))
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return sorted(
        int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == "0A" and row[9] in inodes
    )


def dial(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def drain(caller: socket.socket) -> bytes:
    """Read until the other side hangs up: it must, within this socket's timeout."""
    heard = b""
    with contextlib.suppress(ConnectionError):
        while part := caller.recv(4096):
            heard += part
    return heard


def prove(caller: socket.socket, purpose: int, token: str) -> bool:
    """The client's side of the handshake; whether the server accepted the proof."""
    version, generation, rank, stream, link = _core.protocol, 1, 1, 0, 7
    own = GREETING.pack(
        b"GEARSHFT", version, purpose, generation, rank, stream, 0, link, os.urandom(32)
    )
    caller.sendall(own)
    theirs = b""
    while len(theirs) < GREETING.size:
        part = caller.recv(GREETING.size - len(theirs))
        assert part, "hung up within the handshake"
        theirs += part
    caller.sendall(hmac.digest(token.encode(), b"\x01" + own + theirs, hashlib.sha256))
    answer = caller.recv(VERDICT.size, socket.MSG_WAITALL)
    return len(answer) == VERDICT.size and VERDICT.unpack(answer)[0] == 1


@pytest.fixture
def victim(jobs, free_port):
    """A running job, its store's port, the ports of all ranks, and its token."""
    job = jobs.start(
        "job",
        *("--steps", str(STEPS), "--step-ms", "20"),
        workers=RANKS,
        launcher=("--rdzv", f"127.0.0.1:{free_port}"),
        env={"GEARSHIFT_TRANSPORTS": "tcp"},
    )
    job.await_phase("all_reduce", step=2)
    job.store_port = free_port
    job.ports = sorted({p for pid in job.pids.values() for p in ports_of(pid)})
    assert free_port in job.ports
    assert len(job.ports) == RANKS + 1
    variables = Path(f"/proc/{job.pids[0]}/environ").read_text().split("\0")
    job.token = next(v.partition("=")[2] for v in variables if v.startswith("GEARSHIFT_TOKEN="))
    return job


@pytest.fixture
def unharmed(victim, expected_result, clean):
    """To be called after the attack, which must have happened while the job ran."""

    def check(*refusals: str) -> None:
        assert victim.process.poll() is None, "the job ended before the attack did"
        assert victim.finish() == 0, victim.err
        assert victim.result() == pytest.approx(expected_result(RANKS, STEPS), rel=1e-9, abs=1e-12)
        warnings = [line for line in victim.err.splitlines() if " warn " in line]
        for refusal in refusals:
            assert any(re.search(refusal, line) for line in warnings), victim.err
        assert len(warnings) <= MOST_WARNINGS, "the log is flooded"
        assert " error " not in victim.err
        clean(victim)

    return check


def send_garbage(victim) -> None:
    chance = random.Random(1)
    texts = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", chance.randbytes(1 << 16)]
    for port in victim.ports:
        for text in texts:
            with dial(port) as caller:
                with contextlib.suppress(ConnectionError):
                    caller.sendall(text)
                drain(caller)


def send_oversized_frames(victim) -> None:
    for port in victim.ports:
        with dial(port) as caller:  # in place of a greeting
            with contextlib.suppress(ConnectionError):
                caller.sendall(b"GEARSHFT" + b"\xff" * 256)
            drain(caller)
        purpose = PURPOSE_STORE if port == victim.store_port else PURPOSE_LINK
        with dial(port) as caller:  # a frame, or a number of streams, from one who has the token
            assert prove(caller, purpose, victim.token)
            caller.sendall(struct.pack("<I", 0xFFFFFFF0) + b"\xff" * 64)
            drain(caller)


def claim_wrong_tokens(victim) -> None:
    for port in victim.ports:
        purpose = PURPOSE_STORE if port == victim.store_port else PURPOSE_LINK
        with dial(port) as caller:
            assert not prove(caller, purpose, "a" * 64)


def test_strangers_are_refused(victim, unharmed):
    send_garbage(victim)
    send_oversized_frames(victim)
    claim_wrong_tokens(victim)
    unharmed(
        "store refused .*no magic",
        "store refused .*version differs",
        r"store refused .*a frame of \d+ bytes",
        "store refused .*token",
        "tcp: refused .*no magic",
        "tcp: refused .*version differs",
        "tcp: refused .*token",
    )


def test_processes_that_do_not_belong(victim, unharmed, toy_trainer, clean_env):
    """One of another job, as if left over from yesterday, and a twin of a running rank."""
    for token, reason in (("b" * 64, "token"), (victim.token, "rank 1 is taken")):
        ended = subprocess.run(
            [toy_trainer, "--steps", "3"],
            env=clean_env(
                {
                    "GEARSHIFT_RANK": "1",
                    "GEARSHIFT_WORLD_SIZE": str(RANKS),
                    "GEARSHIFT_RDZV": f"tcp://127.0.0.1:{victim.store_port}",
                    "GEARSHIFT_TOKEN": token,
                }
            ),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert ended.returncode == 1
        assert reason in ended.stderr
    unharmed("store refused .*token")


def test_crowds_at_the_door(victim, unharmed):
    """Half-open connections that stay, and many that come and go, some with a reset."""
    with contextlib.ExitStack() as open_ones:
        for number in range(40):
            for port in victim.ports:
                caller = open_ones.enter_context(dial(port))
                caller.sendall(b"GEARSHFT"[: number % 9])
        for number in range(200):
            for port in victim.ports:
                with contextlib.suppress(ConnectionError, TimeoutError), dial(port) as caller:
                    if number % 2:
                        reset = struct.pack("ii", 1, 0)
                        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        unharmed("refused .* more before it", "tcp: refused")
