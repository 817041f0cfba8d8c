"""The port of `--rdzv`: who has it is told before anything is started."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from gearshift_testing.ports import reserved_port

from gearshift import _core
from gearshift.launch import LaunchError, port
from gearshift.launch.port import Holder, check_port, find_holder

from .conftest import Launcher

TOKEN = "0123456789abcdef" * 4
LISTEN = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def stranger() -> Iterator[tuple[int, int]]:
    """A program that has nothing to do with gearshift: its process, and a port that it has."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", LISTEN],
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    yield process.pid, int(process.stdout.readline())
    process.communicate(timeout=60)


def refused(rdzv: str) -> str:
    with pytest.raises(LaunchError, match=r"^--rdzv: rank 0 cannot serve the rendezvous") as caught:
        check_port(rdzv, TOKEN, lambda text: None)
    return str(caught.value)


def test_another_program_is_named_before_anything_is_started(
    launcher: Launcher, stranger: tuple[int, int]
) -> None:
    pid, number = stranger
    launcher.script("open('started', 'w')")
    job = launcher.folder / "job.toml"
    job.write_text(f'script = "script.py"\nprocesses = 2\nrdzv = "127.0.0.1:{number}"\n')
    ended = launcher.run("job.toml")
    assert ended.code == 2
    said = f"rdzv: rank 0 cannot serve the rendezvous at 127.0.0.1:{number}: the port is taken by "
    assert ended.err.splitlines()[0].startswith(f"gearshift: job.toml:3: {said}`")
    assert f"(pid {pid}), and does not answer as a rendezvous store does; end that" in ended.err
    assert not (launcher.folder / "started").exists()


def test_programs_that_stay_are_not_waited_for(stranger: tuple[int, int]) -> None:
    pid, number = stranger
    heard: list[str] = []
    with pytest.raises(LaunchError):
        check_port(f"127.0.0.1:{number}", TOKEN, heard.append)
    assert heard == []
    assert find_holder(["127.0.0.1"], number).pid == pid
    assert find_holder(["0.0.0.0"], number).pid == pid  # which includes its address
    assert find_holder(["127.0.0.2"], number) == Holder()


def test_a_store_that_serves_the_job_is_welcome() -> None:
    server = _core.StoreServer("127.0.0.1", 0, TOKEN)
    heard: list[str] = []
    check_port(server.address, TOKEN, heard.append)
    assert heard == []


def test_a_rank_of_another_job_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = [_core.StoreServer("127.0.0.1", 0, "other" + TOKEN)]
    address, heard = servers[0].address, []

    def end(text: str) -> None:
        heard.append(text)
        servers.clear()

    check_port(address, TOKEN, end)
    assert len(heard) == 1
    assert "serves jobs that have another token; waiting up to 3 s for it to end" in heard[0]
    monkeypatch.setattr(port, "_PATIENCE", 0.1)
    servers.append(_core.StoreServer("127.0.0.1", 0, "other" + TOKEN))
    assert "another token; end that program" in refused(servers[0].address)


def test_what_answers_otherwise_is_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port, "_PATIENCE", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            caller, _ = server.accept()
            with caller:
                caller.recv(8)
                caller.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")
                caller.recv(1 << 16)

        thread = threading.Thread(target=answer)
        thread.start()
        said = refused(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert f"(pid {os.getpid()}), and is no gearshift process" in said


def test_free_ports_and_other_hosts_are_left_to_rank_0() -> None:
    with reserved_port() as number:
        for host in ("127.0.0.1", "localhost", "192.0.2.7"):
            check_port(f"{host}:{number}", TOKEN, pytest.fail)
