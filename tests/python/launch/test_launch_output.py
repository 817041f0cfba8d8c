"""Lines of many processes in one stream."""

from __future__ import annotations

import os
import re
import signal

from gearshift.launch.output import LineSplitter


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
