"""Crashes, freezes and signals: everything ends, and the right rank is named."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gearshift.launch import EXIT_PEER_LOST

READY = 'with open(f"pid-{rank}", "w") as pid_file: pid_file.write(f"{os.getpid()}\\n")\n'
"""Closed in so many words: Python drops what a signal's handler raises in a file's destructor."""
SLEEP = READY + "for _ in range(6000): time.sleep(0.1)\n"
"""In short pieces: Python does not see a signal that comes just before it sleeps until it wakes."""
OTHERS = """
def is_ready(other):
    try:
        return open(f"pid-{other}").read().endswith("\\n")
    except FileNotFoundError:
        return False

def is_frozen(other):
    if not is_ready(other): return False
    pid = int(open(f"pid-{other}").read())
    return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] == "T"
"""
"""What a script sees of other ranks."""


def pids(launcher, *ranks: int) -> list[int]:
    return [int(text) for text in launcher.wait_for_files(*(f"pid-{rank}" for rank in ranks))]


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_success(launcher):
    ended = launcher.run("-n", "3", launcher.script("sys.exit(0)"))
    assert (ended.code, ended.out) == (0, "")
    assert "failed" not in ended.err


def test_exit_code_and_last_words_of_the_first_to_fail(launcher):
    ended = launcher.run(
        *("-n", "3", "--grace", "0.2"),
        launcher.script(
            """
            if rank == 1:
                raise ValueError("the culprit's reason")
            time.sleep(60)
            """
        ),
    )
    assert ended.code == 1
    verdict = ended.err[ended.err.index("rank 1 failed first") :]
    assert re.match(r"rank 1 failed first: exit code 1 \(pid \d+\), after [\d.]+ s;", verdict)
    assert "ranks 0, 2 ended by the launcher after 0.2 s of grace" in verdict
    assert "    ValueError: the culprit's reason" in verdict


def test_killed_rank_is_named_though_others_report_it_first(launcher):
    script = launcher.script(
        f"""
        if rank == 2:
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
        sys.exit({EXIT_PEER_LOST})
        """
    )
    ended = launcher.run("-n", "4", script)
    assert ended.code == 128 + signal.SIGKILL
    assert re.search(r"rank 2 failed first: killed by SIGKILL \(pid \d+\)", ended.err)
    assert "ranks 0, 1, 3 then exited with 75" in ended.err


def test_only_lost_peers(launcher):
    ended = launcher.run("-n", "2", launcher.script(f"sys.exit({EXIT_PEER_LOST})"))
    assert ended.code == EXIT_PEER_LOST
    assert "lost a peer (exit code 75" in ended.err


def test_who_left_before_is_told_apart(launcher):
    script = launcher.script(
        f"""
        if rank > 0:
            with open(f"pid-{{rank}}.new", "w") as file:
                file.write(str(os.getpid()))
            os.rename(f"pid-{{rank}}.new", f"pid-{{rank}}")
            sys.exit(0)

        def is_gone(other):  # the launcher knows, too: it has waited for the process
            try:
                return not os.path.exists("/proc/" + open(f"pid-{{other}}").read())
            except FileNotFoundError:
                return False

        while not (is_gone(1) and is_gone(2)):
            time.sleep(0.05)
        sys.exit({EXIT_PEER_LOST})
        """
    )
    ended = launcher.run("-n", "3", script)
    assert ended.code == EXIT_PEER_LOST
    assert "rank 0 failed first: lost a peer" in ended.err
    assert "ranks 1, 2 had exited with 0 before" in ended.err


def test_server_is_named(launcher):
    script = launcher.script("sys.exit(9 if rank == 2 else 0)")
    ended = launcher.run("-n", "2", "--servers", "1", script)
    assert ended.code == 9
    assert "server 0 (rank 2) failed first: exit code 9" in ended.err


def test_survivors_may_use_the_grace_period(launcher):
    script = launcher.script(
        """
        if rank == 0: sys.exit(4)
        time.sleep(1)
        print("my own report")
        sys.exit(75)
        """
    )
    ended = launcher.run("-n", "2", "--grace", "20", script)
    assert ended.code == 4
    assert "[1] my own report" in ended.out


def test_deaf_to_sigterm(launcher):
    script = launcher.script(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + READY,
        OTHERS,
        """
        if rank == 0:
            while not is_ready(1): time.sleep(0.01)
            sys.exit(5)
        time.sleep(60)
        """,
    )
    ended = launcher.run("-n", "2", "--grace", "0", script)
    assert ended.code == 5
    assert "rank 1 ended by the launcher" in ended.err


def test_frozen_rank_is_named_and_killed(launcher, is_alive):
    script = launcher.script(
        READY,
        f"""
        if rank == 1: os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.3)
        sys.exit({EXIT_PEER_LOST})
        """,
    )
    ended = launcher.run("-n", "3", script)
    assert ended.code == 128 + signal.SIGKILL
    assert "rank 1 failed first: frozen (stopped by a signal" in ended.err
    assert not any(is_alive(pid) for pid in pids(launcher, 0, 1, 2))


def test_frozen_rank_beside_a_hung_one(launcher, is_alive):
    script = launcher.script(
        READY,
        OTHERS,
        f"""
        if rank == 1: os.kill(os.getpid(), signal.SIGSTOP)
        if rank == 2: time.sleep(60)
        # From this end on the others have half a second, however far they have come.
        while not (is_frozen(1) and is_ready(2)): time.sleep(0.01)
        sys.exit({EXIT_PEER_LOST})
        """,
    )
    ended = launcher.run("-n", "3", "--grace", "0.5", script)
    assert ended.code == 128 + signal.SIGKILL
    assert "rank 1 failed first: frozen" in ended.err
    assert not any(is_alive(pid) for pid in pids(launcher, 0, 1, 2))


def test_a_pause_after_the_others_have_ended_well_is_survived(launcher):
    script = launcher.script(
        READY,
        """
        if rank == 1:
            stopped = f"grep -q '^State:.T' /proc/{os.getpid()}/status"
            alone = "[ -s pid-0 ] && ! kill -0 $(cat pid-0)"
            wait = f"until {stopped} && {alone}; do sleep 0.05; done 2>/dev/null"
            subprocess.Popen(["sh", "-c", f"{wait}; sleep 2; kill -CONT {os.getpid()}"])
            os.kill(os.getpid(), signal.SIGSTOP)
            print("went on")
        """,
    )
    ended = launcher.run("-n", "2", script)
    assert (ended.code, ended.out) == (0, "[1] went on\n"), ended.err
    frozen = launcher.script("if rank == 1: os.kill(os.getpid(), signal.SIGSTOP)")
    ended = launcher.run("-n", "2", "--grace", "2", frozen)
    assert ended.code == 128 + signal.SIGKILL
    assert "rank 1 failed first: frozen" in ended.err


def test_grandchildren_end_with_their_rank(launcher, is_alive, until):
    script = launcher.script(
        """
        child = subprocess.Popen(["sleep", "600"])
        other = subprocess.Popen(["sleep", "600"], process_group=0)
        open(f"pid-{rank}", "w").write(f"{child.pid}\\n")
        open(f"pid-{rank + 2}", "w").write(f"{other.pid}\\n")
        if rank == 1: os.kill(os.getpid(), signal.SIGSEGV)
        """
    )
    ended = launcher.run("-n", "2", script)
    assert ended.code == 128 + signal.SIGSEGV
    assert "killed by SIGSEGV" in ended.err
    grandchildren = pids(launcher, 0, 1, 2, 3)
    # They were sent SIGKILL, which a busy machine may take a moment to carry out.
    until(lambda: not any(is_alive(pid) for pid in grandchildren))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_forwarded(launcher, ended, number):
    script = launcher.script(
        """
        def farewell(number, frame):
            print("got", signal.Signals(number).name)
            sys.exit(40 + rank)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, farewell)
        """,
        SLEEP,
    )
    process = launcher.start("-n", "2", script)
    pids(launcher, 0, 1)
    process.send_signal(number)
    result = ended(process)
    assert sorted(result.out.splitlines()) == [f"[{r}] got {number.name}" for r in (0, 1)]
    assert result.code == 128 + number
    assert f"ended by {number.name}" in result.err


def test_graceful_end_after_a_signal_is_a_success(launcher, ended):
    script = launcher.script("signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n" + SLEEP)
    process = launcher.start("-n", "2", script)
    pids(launcher, 0, 1)
    process.terminate()
    assert ended(process).code == 0


@pytest.mark.parametrize("handled", [True, False])
def test_children_of_a_script_that_handles_a_signal_are_its_own(launcher, ended, handled):
    """The workers of a DataLoader live until the script has taken its leave."""
    script = launcher.script(
        f"""
        child = subprocess.Popen(["sleep", "60"])
        def farewell(number, frame):
            time.sleep(0.3)
            print("child", child.poll(), flush=True)
            sys.exit(0)
        if {handled}: signal.signal(signal.SIGTERM, farewell)
        """,
        SLEEP,
    )
    process = launcher.start("-n", "1", script)
    pids(launcher, 0)
    process.terminate()
    result = ended(process)
    assert (result.code, result.out) == ((0, "[0] child None\n") if handled else (143, ""))


def test_a_wrapper_does_not_keep_a_signal_for_itself(launcher, ended):
    script = launcher.script("signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))", SLEEP)
    wrapper = f"trap 'echo heard' TERM; {sys.executable} {script}"
    process = launcher.start("-n", "1", "--", "bash", "-c", wrapper)
    pids(launcher, 0)
    process.terminate()
    result = ended(process)
    assert result.out == "[0] heard\n"
    assert result.code == 143


def test_frozen_ranks_that_are_asked_to_end_are_killed(launcher, ended, is_alive, until):
    script = launcher.script(READY, "os.kill(os.getpid(), signal.SIGSTOP)")
    process = launcher.start("-n", "2", script)
    ranks = pids(launcher, 0, 1)
    until(lambda: all(state_of(pid) == "T" for pid in ranks))
    process.terminate()
    result = ended(process)
    assert result.code == 128 + signal.SIGTERM
    assert result.err.count("is frozen (stopped by a signal) and cannot end; killing it") == 2
    assert "ended by SIGTERM" in result.err
    assert not any(is_alive(pid) for pid in ranks)


def test_frozen_ranks_of_one_node_of_several_are_killed(launcher, is_alive):
    """The other nodes have lost them, and nobody asks for the rest."""
    script = launcher.script(READY, "os.kill(os.getpid(), signal.SIGSTOP)")
    place = ("--nnodes", "2", "--node-rank", "1", "--rdzv", "192.0.2.7:29500")
    env = {"GEARSHIFT_TOKEN": "0123456789abcdef" * 4}
    result = launcher.run("-n", "2", *place, "--grace", "1", script, env=env)
    assert result.code == 128 + signal.SIGKILL
    assert result.err.count("is frozen (stopped by a signal) and lost for other nodes") == 2
    assert "failed first: frozen (stopped by a signal" in result.err
    assert not any(is_alive(pid) for pid in pids(launcher, 2, 3))


def test_ctrl_z_stops_the_whole_job(launcher, ended, until):
    waiting = """
        while not os.path.exists("go"):
            time.sleep(0.02)
        print("end of", rank)
        """
    process = launcher.start("-n", "2", launcher.script(READY, waiting))
    everybody = [process.pid, *pids(launcher, 0, 1)]
    process.send_signal(signal.SIGTSTP)
    until(lambda: [state_of(pid) for pid in everybody] == ["T", "T", "T"])
    (launcher.folder / "go").touch()
    process.send_signal(signal.SIGCONT)
    outcome = ended(process)
    assert outcome.code == 0
    assert sorted(outcome.out.splitlines()) == ["[0] end of 0", "[1] end of 1"]


def test_a_signal_before_anything_is_started_leaves_nothing(clean_env, tmp_path):
    program = """
import os, signal, sys, tempfile
from gearshift.launch.launcher import launch
from gearshift.launch.plan import LaunchOptions
make = tempfile.mkdtemp
def make_and_be_told_to_end(**options):
    path = make(**options)
    os.kill(os.getpid(), signal.SIGTERM)
    return path
tempfile.mkdtemp = make_and_be_told_to_end
sys.exit(launch(LaunchOptions(target=("sleep", "60"), kind="executable")).returncode)
"""
    env = clean_env({"TMPDIR": str(tmp_path)})
    ended = subprocess.run([sys.executable, "-c", program], env=env, timeout=50, check=False)
    assert ended.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_second_interrupt_kills(launcher, ended, until):
    script = launcher.script(
        """
        def deaf(number, frame): open(f"heard-{rank}", "w").write("once\\n")
        signal.signal(signal.SIGINT, deaf)
        """,
        READY,
        "for _ in range(600): time.sleep(0.1)\n",
    )
    process = launcher.start("-n", "2", script)
    pids(launcher, 0, 1)
    process.send_signal(signal.SIGINT)
    launcher.wait_for_files("heard-0", "heard-1")
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    result = ended(process)
    assert result.code == 128 + signal.SIGINT
    assert "second SIGINT" in result.err


DEAF = """
def deaf(number, frame):
    with open("heard", "a") as file: file.write("heard\\n")
signal.signal(signal.SIGTERM, deaf)
"""


def test_second_termination_kills(launcher, ended):
    """Not one that comes at once: `timeout` sends it to its child, and then to the whole group."""
    process = launcher.start("-n", "1", launcher.script(DEAF, READY, "time.sleep(60)\n" * 3))
    pids(launcher, 0)
    process.terminate()
    process.terminate()
    launcher.wait_for_files("heard")
    time.sleep(1.1)
    assert process.poll() is None
    process.terminate()
    result = ended(process)
    assert result.code == 128 + signal.SIGTERM
    assert (launcher.folder / "heard").read_text() == "heard\n"
    assert "second SIGTERM: killed all processes" in result.err


def test_ranks_that_do_not_end_when_asked_to_are_killed_and_named(launcher, ended):
    """Those that end, with any code, leave the others their time."""
    deaf = "if rank == 1: signal.signal(signal.SIGTERM, lambda *_: None)\n"
    process = launcher.start("-n", "3", "--grace", "0.5", launcher.script(deaf, SLEEP))
    pids(launcher, 0, 1, 2)
    process.terminate()
    result = ended(process)
    assert result.code == 128 + signal.SIGTERM
    assert "rank 1 did not end within 0.5 s of SIGTERM: killed" in result.err
    assert "ranks 0, 2 then killed by SIGTERM; rank 1 ended by the launcher" in result.err


def test_hang_report_signal_reaches_the_ranks(launcher, ended):
    script = launcher.script(
        """
        import faulthandler
        faulthandler.register(signal.SIGUSR1, all_threads=True)
        signal.signal(signal.SIGUSR2, lambda *_: sys.exit(0))
        """,
        SLEEP,
    )
    process = launcher.start("-n", "2", script)
    ranks = pids(launcher, 0, 1)
    process.send_signal(signal.SIGUSR1)
    assert process.stderr is not None
    seen: set[bytes] = set()
    while len(seen) < 2:
        line = process.stderr.readline()
        assert line, "ended without a report"
        if b"most recent call first" in line:
            seen.add(line[:3])
    assert seen == {b"[0]", b"[1]"}
    for pid in ranks:
        os.kill(pid, signal.SIGUSR2)
    assert ended(process).code == 0


def test_whom_the_report_signal_would_kill_is_not_asked(launcher, ended):
    """Ranks that are still importing, and programs without a handler."""
    script = launcher.script(
        """
        if rank == 0:
            signal.signal(signal.SIGUSR1, lambda *_: print("asked", flush=True))
        signal.signal(signal.SIGUSR2, lambda *_: sys.exit(0))
        """,
        SLEEP,
    )
    process = launcher.start("-n", "2", script)
    ranks = pids(launcher, 0, 1)
    process.send_signal(signal.SIGUSR1)
    assert process.stderr is not None
    assert process.stdout is not None
    lines = iter(process.stderr.readline, b"")
    refused = next((line for line in lines if b"SIGUSR1" in line), b"")
    assert f"rank 1 (pid {ranks[1]}) does not handle SIGUSR1".encode() in refused
    assert process.stdout.readline() == b"[0] asked\n"
    for pid in ranks:
        os.kill(pid, signal.SIGUSR2)
    assert ended(process).code == 0


def test_killed_launcher_leaves_nothing_behind(launcher, is_alive, until):
    script = launcher.script(
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"])
        open(f"pid-{rank + 2}", "w").write(f"{child.pid}\\n")
        """,
        SLEEP,
    )
    temporary = launcher.folder / "tmp"
    temporary.mkdir()
    process = launcher.start("-n", "2", script, env={"TMPDIR": str(temporary)})
    everyone = pids(launcher, 0, 1, 2, 3)
    assert list(temporary.iterdir())
    process.kill()
    process.communicate()
    until(lambda: not any(is_alive(pid) for pid in everyone))
    until(lambda: not list(temporary.iterdir()))


def test_command_that_cannot_start(launcher):
    path = launcher.folder / "broken"
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)
    ended = launcher.run("-n", "2", "--", str(path))
    assert ended.code == 2
    assert "cannot start rank 0" in ended.err
