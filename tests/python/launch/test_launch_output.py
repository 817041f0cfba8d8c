"""Lines of many processes in one stream."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterable

import pytest

from gearshift.launch.output import LineSplitter
from gearshift.launch.printer import Outlet, Printer
from gearshift.launch.ranks import name_ranks


def split(*pieces: bytes, step: float = 0.0) -> list[bytes]:
    splitter = LineSplitter()
    lines = [line for i, piece in enumerate(pieces) for line in splitter.feed(piece, i * step)]
    return lines + splitter.finish()


def test_lines_survive_any_cut():
    text = b"one\ntwo\r\n\nthree\xff\x00\nfour"
    whole = [b"one", b"two", b"", b"three\xff\x00", b"four"]
    assert split(text) == whole
    assert split(*[text[i : i + 1] for i in range(len(text))]) == whole


def test_progress_bars_become_few_lines_and_keep_the_last_state():
    draws = [f"\r{i}%".encode() for i in range(101)]
    assert split(*draws, b"\nend\n") == [b"0%", b"100%", b"end"]
    slow = split(*draws, b"\n", step=0.5)
    assert slow[-1] == b"100%"
    assert 30 < len(slow) < 60
    trailing = [f"{i}%\r".encode() for i in range(3)]
    assert split(*trailing) == [b"0%", b"2%"]
    assert split(b"1%\r2%\r3%\rdone\n") == [b"done"]


def test_an_endless_line_does_not_fill_the_memory():
    lines = split(*[b"x" * 65536] * 40)
    assert len(lines) > 1
    assert sum(map(len, lines)) == 40 * 65536


def test_streams_stay_apart_and_carry_the_rank(launcher):
    ended = launcher.run(
        "-n", "2", launcher.script("print('to out', rank); print('to err', rank, file=sys.stderr)")
    )
    assert sorted(ended.out.splitlines()) == ["[0] to out 0", "[1] to out 1"]
    marked = [line for line in ended.err.splitlines() if line.startswith("[")]
    assert sorted(marked) == ["[0] to err 0", "[1] to err 1"]


def test_streams_that_are_one_keep_their_lines_whole(launcher):
    script = launcher.script(
        """
        for i in range(200):
            print("o" * 20000, flush=True)
            print("e" * 20000, file=sys.stderr, flush=True)
        """
    )
    process = launcher.start("-n", "2", script, stderr=subprocess.STDOUT)
    out, _ = process.communicate(timeout=60)
    lines = [line for line in out.splitlines() if line.startswith(b"[")]
    assert {line[4:] for line in lines} == {b"o" * 20000, b"e" * 20000}
    assert len(lines) == 800


def test_servers_have_their_own_prefix(launcher):
    ended = launcher.run("-n", "1", "--servers", "2", launcher.script("print(rank)"))
    assert sorted(ended.out.splitlines()) == ["[0] 0", "[s0] 1", "[s1] 2"]


def test_no_prefix(launcher):
    ended = launcher.run("-n", "2", "--no-prefix", launcher.script("print('line', rank)"))
    assert sorted(ended.out.splitlines()) == ["line 0", "line 1"]


def test_much_output_from_all_at_once_stays_whole(launcher):
    ended = launcher.run(
        *("-n", "4", "--log-dir", "logs"),
        launcher.script(
            """
            for i in range(4000):
                print(f"{rank}:{i}:" + "abcdefgh" * 20)
            """
        ),
    )
    assert ended.code == 0
    pattern = re.compile(r"\[(\d)\] \1:(\d+):(abcdefgh){20}")
    matches = [pattern.fullmatch(line) for line in ended.out.splitlines()]
    assert all(matches)
    for rank in "0123":
        numbers = [int(match[2]) for match in matches if match and match[1] == rank]
        assert numbers == list(range(4000))
        log = (launcher.folder / "logs" / f"rank-{rank}.log").read_text().splitlines()
        assert len(log) == 4000
        assert log[7].startswith(f"{rank}:7:abc")


def test_the_last_words_of_a_crash_get_out(launcher):
    ended = launcher.run(
        launcher.script(
            """
            sys.stdout.write("x" * 200000 + " half a line")
            sys.stdout.flush()
            os.kill(os.getpid(), signal.SIGKILL)
            """
        )
    )
    assert ended.code == 137
    assert ended.out == "[0] " + "x" * 200000 + " half a line\n"


def test_binary_garbage_is_passed_on(launcher):
    garbage = bytes(set(range(256)) - {13}) + b"\n"
    process = launcher.start(launcher.script(f"os.write(1, {garbage!r})"))
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.replace(b"[0] ", b"") == garbage


def test_a_closed_stdout_does_not_end_the_job(launcher):
    process = launcher.start(
        launcher.script(
            """
            for i in range(20):
                print(i)
                time.sleep(0.02)
            open("done", "w").write("yes\\n")
            """
        )
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read().decode()
    assert process.wait(timeout=60) == 0
    assert launcher.wait_for_files("done") == ["yes"]
    assert "stdout was closed" in err


def test_whoever_does_not_read_does_not_hold_up_the_job(launcher):
    """A pager, or a terminal held up by Ctrl-S: who cannot print would be lost for the others."""
    process = launcher.start(
        *("-n", "2"),
        launcher.script(
            """
            for i in range(4000):
                print(f"{rank}:{i}:" + "abcdefgh" * 20)
            open(f"done{rank}", "w").write("yes\\n")
            """
        ),
    )
    assert launcher.wait_for_files("done0", "done1") == ["yes", "yes"]
    out, _ = process.communicate(timeout=60)  # nothing was read before
    assert process.returncode == 0
    assert len(out.splitlines()) == 8000


def test_who_asked_for_an_end_does_not_wait_for_a_reader(launcher):
    process = launcher.start(
        launcher.script(
            """
            print("x" * 300000)
            open("printed", "w").write("yes\\n")
            time.sleep(600)
            """
        )
    )
    launcher.wait_for_files("printed")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143


def test_a_second_interrupt_kills_where_nobody_reads(launcher, is_alive, until):
    """A process that is alone waits for room; its launcher's last words must not."""
    script = """
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        open("pid", "w").write(f"{os.getpid()}\\n")
        while True:
            print("x" * 1000000)
        """
    process = launcher.start(launcher.script(script), stderr=subprocess.STDOUT)
    pid = int(launcher.wait_for_files("pid")[0])
    time.sleep(3.0)  # there is no room any more, most likely
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    until(lambda: not is_alive(pid))
    process.communicate(timeout=60)
    assert process.returncode == 130


def numbered(count: int) -> list[bytes]:
    return [b"%06d %s\n" % (i, b"x" * 100) for i in range(count)]


def read_all(descriptor: int) -> list[bytes]:
    with os.fdopen(descriptor, "rb") as file:
        return file.read().splitlines(keepends=True)


def test_a_slow_reader_gets_all():
    """As long as it reads at all, whoever prints waits for it."""
    reader, writer = os.pipe()
    printer = Printer(Outlet(writer, lambda _: None), patience=60.0, room=4096)
    found: list[list[bytes]] = []
    reading = threading.Timer(0.3, lambda: found.append(read_all(reader)))
    reading.start()
    lines = numbered(20000)  # more than the pipe and the printer have room for
    for begin in range(0, len(lines), 100):
        printer.put(lines[begin : begin + 100])
    printer.finish()
    os.close(writer)
    reading.join()
    assert found == [lines]


def test_what_nobody_reads_is_left_out_and_counted():
    reader, writer = os.pipe()
    printer = Printer(Outlet(writer, lambda _: None), patience=0.1, room=4096)
    lines = numbered(3000)
    for line in lines:
        printer.put([line])
    found: list[list[bytes]] = []
    reading = threading.Thread(target=lambda: found.append(read_all(reader)))
    reading.start()
    printer.finish()
    printer.put([b"the end\n"])
    printer.finish()
    os.close(writer)
    reading.join()
    *kept, note, last = found[0]
    assert last == b"the end\n"
    assert 0 < len(kept) < 3000
    assert kept == lines[: len(kept)]
    assert note.startswith(b"gearshift run: %d lines left out here" % (3000 - len(kept)))


def test_no_thread_to_print_by(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    reader, writer = os.pipe()
    printer = Printer(Outlet(writer, lambda _: None), patience=None)
    printer.put([b"one\n", b"two\n"])
    printer.finish()
    os.close(writer)
    assert read_all(reader) == [b"one\n", b"two\n"]


def test_no_room_for_what_a_job_prints(launcher):
    """A full disk costs the output, and neither the job nor its exit code."""
    script = launcher.script(
        """
        for i in range(20):
            print(i)
            time.sleep(0.02)
        print("the end", file=sys.stderr)
        open("done", "w").write("yes\\n")
        sys.exit(7)
        """
    )
    with open("/dev/full", "wb") as full:
        process = launcher.start("-n", "2", script, stdout=full)
        assert process.stderr is not None
        err = process.stderr.read().decode()
        assert process.wait(timeout=60) == 7
        assert launcher.wait_for_files("done") == ["yes"]
        assert err.count("cannot write to stdout: No space left on device; the job goes on") == 1
        assert "[1] the end" in err
        process = launcher.start("-n", "2", script, stderr=full)
        assert process.stdout is not None
        assert process.stdout.read().count(b"\n") == 40
        assert process.wait(timeout=60) == 7


def test_a_daemon_that_keeps_the_pipe_does_not_hang_the_launcher(launcher):
    ended = launcher.run(
        launcher.script(
            """
            daemon = subprocess.Popen(["sleep", "60"], start_new_session=True)
            open("daemon", "w").write(f"{daemon.pid}\\n")
            print("unfinished", end="")
            """
        )
    )
    assert ended.code == 0
    assert ended.out == "[0] unfinished\n"
    os.kill(int(launcher.wait_for_files("daemon")[0]), signal.SIGKILL)


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        ([3], "rank 3"),
        ([1, 0], "ranks 0, 1"),
        ([0, 1, 2, 5], "ranks 0 to 2, 5"),
        ([7, 2, 4, 3, 9, 8, 10], "ranks 2 to 4, 7 to 10"),
        (range(1000), "ranks 0 to 999"),
    ],
)
def test_ranks_are_named_in_short(ranks: Iterable[int], said: str) -> None:
    assert name_ranks(ranks) == said
