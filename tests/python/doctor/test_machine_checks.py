"""What the checks of one machine say of facts that are made up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from gearshift_testing.processes import await_end

import gearshift
from gearshift.doctor import (
    alone,
    cgroup,
    clock,
    folders,
    leftovers,
    limits,
    memory,
    processors,
    tcp,
    trial,
    versions,
)
from gearshift.doctor.finding import Finding

ROOT = Path(gearshift.__file__).parents[2]

VERSIONS = versions.Versions(
    gearshift="0.1.0",
    core="0.1.0",
    protocol=1,
    python="3.11.2",
    torch="2.13.0+cpu",
    numpy="2.0",
    kernel="6.1",
)
PROCESSORS = processors.Processors(
    online=8, allowed=8, quota=None, load=0.1, simd="AVX2", ranks=4, omp_threads="2"
)
MEMORY = memory.Memory(
    total=16 << 30, available=8 << 30, limit=None, shm=8 << 30, shm_free=8 << 30, window_error=""
)
LIMITS = limits.Limits(
    files=1 << 20,
    processes=None,
    threads_now=100,
    locked=8 << 20,
    file_size=None,
    address_space=None,
    world=4,
    ranks=4,
)
TCP = tcp.Tcp(
    system="cubic",
    allowed=("reno", "cubic"),
    wanted="auto",
    usable=True,
    cubic=True,
    receive=6 << 20,
    send=4 << 20,
    asked=212992,
    backlog=4096,
    ports=(32768, 60999),
)
FOLDERS = folders.Folders("/tmp", "", 1 << 30, "/root/.cache/gearshift", "")
CLEAN = leftovers.Leftovers((), (), 0, (), ())


def only(found: list[Finding], level: str) -> Finding:
    """The only finding that is not ok; it must say why, and what to do."""
    bad = [finding for finding in found if finding.level != "ok"]
    assert [finding.level for finding in bad] == [level], found
    assert bad[0].why
    assert bad[0].todo
    return bad[0]


def test_a_good_machine_has_no_warnings():
    found = [
        *versions.check(VERSIONS),
        *processors.check(PROCESSORS),
        *memory.check(MEMORY),
        *limits.check(LIMITS),
        *tcp.check(TCP),
        clock.check(clock.Clock("tsc", 5e-8, True)),
        *folders.check(FOLDERS),
        *leftovers.check(CLEAN),
    ]
    assert {finding.level for finding in found} == {"ok"}, found
    assert len({finding.topic for finding in found}) == len(found)


def test_versions():
    broken = replace(VERSIONS, core=None, core_error="libssl.so.3: cannot open shared object file")
    assert "libssl.so.3" in only(versions.check(broken), "problem").found
    assert "0.0.9" in only(versions.check(replace(VERSIONS, core="0.0.9")), "problem").found
    assert only(versions.check(replace(VERSIONS, torch=None)), "warning").topic == "torch"
    assert "2.5.1" in only(versions.check(replace(VERSIONS, torch="2.5.1")), "problem").found
    assert versions.check(replace(VERSIONS, gearshift="0+unknown"))[0].level == "ok"


def test_the_oldest_torch_is_that_of_the_package():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = "torch>=" + ".".join(map(str, versions.LEAST_TORCH))
    assert extras["optional-dependencies"]["torch"] == [wanted]


def test_collected_versions_are_those_of_the_process():
    found = versions.Versions.collect()
    assert found.core is not None, found.core_error
    header = (ROOT / "include" / "gearshift" / "transport" / "handshake.h").read_text()
    assert f"kProtocolVersion = {found.protocol};" in header
    assert found.gearshift in ("0+unknown", found.core)


def test_processors():
    quota = only(processors.check(replace(PROCESSORS, quota=2.0, omp_threads=None)), "warning")
    assert "control group" in quota.found
    crowded = replace(PROCESSORS, allowed=2, omp_threads="1")
    found = processors.check(crowded)
    assert {f.topic for f in found if f.level == "warning"} == {"processors"}
    many = only(processors.check(replace(PROCESSORS, omp_threads="8")), "warning")
    assert "32 threads on 8 processors" in many.found
    assert many.todo.startswith("export OMP_NUM_THREADS=2")
    only(processors.check(replace(PROCESSORS, omp_threads="many")), "warning")
    assert only(processors.check(replace(PROCESSORS, simd="SSE2")), "warning").topic == "vectors"
    assert only(processors.check(replace(PROCESSORS, load=20.0)), "warning").topic == "load"
    assert not any(f.topic == "vectors" for f in processors.check(replace(PROCESSORS, simd=None)))


def test_the_core_names_its_instruction_set():
    assert processors.Processors.collect(1).simd


@pytest.mark.parametrize(
    ("own", "limit"),
    [("/a/b", "50000 100000"), ("/a", "200000 100000"), ("/", None), ("/of/another", None)],
)
def test_the_strictest_control_group_counts(tmp_path, own, limit):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "cpu.max").write_text("200000 100000\n")
    (tmp_path / "a" / "b" / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert cgroup.read_limit("cpu.max", tmp_path, own) == limit


def test_an_outer_control_group_may_be_stricter(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "memory.max").write_text("1000\n")
    (tmp_path / "a" / "b" / "memory.max").write_text("max\n")
    assert cgroup.read_limit("memory.max", tmp_path, "/a/b") == "1000"


def test_memory_that_is_left_in_the_fullest_control_group(tmp_path):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    for folder, most, now, stat in (
        (inner, "4000", "1000", "anon 700\ninactive_file 200\n"),
        (inner.parent, "5000", "4500", "anon 4000\ninactive_file 300\n"),
        (tmp_path, "max", "9000", ""),
    ):
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{now}\n")
        (folder / "memory.stat").write_text(stat)
    assert cgroup.memory_left(tmp_path, "/a/b") == 800
    (inner / "memory.current").write_text("3900\n")
    assert cgroup.memory_left(tmp_path, "/a/b") == 300
    assert cgroup.memory_left(tmp_path, "/none") is None


def test_memory():
    docker = only(memory.check(replace(MEMORY, shm=64 << 20, shm_free=64 << 20)), "warning")
    assert docker.topic == "/dev/shm"
    assert "--shm-size" in docker.todo
    full = only(memory.check(replace(MEMORY, shm_free=1 << 20)), "warning")
    assert "dead processes" in full.todo
    only(memory.check(replace(MEMORY, shm=None, shm_free=0)), "warning")
    assert only(memory.check(replace(MEMORY, limit=1 << 29)), "warning").topic == "memory"
    full = only(memory.check(replace(MEMORY, limit=4 << 30, left=1 << 28)), "warning")
    assert "the control group allows 4.3 GB, of which 268.4 MB are left" in full.found
    assert {f.level for f in memory.check(replace(MEMORY, limit=4 << 30, left=2 << 30))} == {"ok"}
    refused = only(memory.check(replace(MEMORY, window_error="File too large")), "warning")
    assert refused.topic == "shared windows"
    assert "File too large" in refused.found


def test_a_window_is_really_made():
    assert memory.try_window(1 << 16) == ""


def test_a_window_that_cannot_be_made(monkeypatch):
    def refuse(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refuse)
    assert memory.try_window(1 << 16) == "Function not implemented"


def test_limits():
    few = only(limits.check(replace(LIMITS, files=1024, world=512)), "warning")
    assert few.topic == "open files"
    assert "512" in few.found
    assert (
        only(limits.check(replace(LIMITS, file_size=1 << 20)), "warning").topic == "size of files"
    )
    only(limits.check(replace(LIMITS, address_space=1 << 30)), "warning")


def test_limit_of_processes(monkeypatch):
    tight = replace(LIMITS, processes=200)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert only(limits.check(tight), "warning").topic == "threads and processes"
    monkeypatch.setattr(os, "geteuid", lambda: 0)  # whom the kernel does not limit
    assert {finding.level for finding in limits.check(tight)} == {"ok"}


def test_tcp():
    bbr = tcp.check(replace(TCP, system="bbr"))
    assert {finding.level for finding in bbr} == {"ok"}
    assert "cubic" in bbr[0].found
    only(tcp.check(replace(TCP, system="bbr", allowed=("reno", "bbr"), cubic=False)), "warning")
    wrong = only(tcp.check(replace(TCP, wanted="cubik", usable=False)), "problem")
    assert "reno, cubic" in wrong.todo
    assert "tcp_wmem" in only(tcp.check(replace(TCP, send=1 << 16)), "warning").todo
    assert "wmem_max" in only(tcp.check(replace(TCP, asked=1 << 16)), "warning").todo
    assert only(tcp.check(replace(TCP, ports=(40000, 40100))), "warning").topic == "ports"
    only(tcp.check(replace(TCP, backlog=16)), "warning")
    hidden = replace(TCP, receive=None, send=None, asked=None, backlog=None, ports=None, allowed=())
    assert {finding.level for finding in tcp.check(hidden)} == {"ok"}


def test_tcp_of_this_machine():
    found = tcp.Tcp.collect(None)
    assert found.system
    assert found.usable
    assert not tcp.Tcp.collect("no-such-control").usable


def test_clock():
    assert clock.check(clock.Clock("hpet", 1e-7, None)).level == "warning"
    assert clock.check(clock.Clock("tsc", 1e-5, True)).level == "warning"
    assert "not synchronised" in clock.check(clock.Clock("tsc", 1e-7, False)).found


def test_folders(tmp_path):
    broken = replace(FOLDERS, temporary_error="No space left on device")
    assert only(folders.check(broken), "problem").topic == "temporary folder"
    only(folders.check(replace(FOLDERS, free=1 << 10)), "warning")
    only(folders.check(replace(FOLDERS, cache="")), "warning")
    (tmp_path / "file").write_text("")
    assert "no folder" in folders._why_not_writable(tmp_path / "file" / "gearshift")
    assert folders._why_not_writable(tmp_path / "not" / "there" / "yet") == ""
    assert not (tmp_path / "not").exists()


def test_leftovers():
    left = leftovers.Leftovers(
        folders=("/tmp/gearshift-abcdefgh",),
        segments=("/dev/shm/torch_1_2",),
        segment_bytes=3 << 20,
        namespaces=("gsb1-h0",),
        ranks=(10, 11, 12, 13, 14, 15, 16),
    )
    found = leftovers.check(left)
    assert [finding.level for finding in found] == ["warning", "warning", "ok", "ok"]
    assert "pid 14 and 2 more" in found[0].found
    assert found[0].todo.endswith("kill 10 11 12 13 14 15 16")


def test_segments_of_the_dead(tmp_path):
    gone = 4_194_305  # above the greatest process id
    for name in (f"torch_{gone}_1", f"torch_{os.getpid()}_2", "other"):
        (tmp_path / name).write_bytes(b"x")
    found = list(leftovers._dead(tmp_path, leftovers._TORCH_FILE))
    assert [path.name for path in found] == [f"torch_{gone}_1"]


def test_networks_of_the_dead(tmp_path):
    gone = 4_194_305
    for name in (f"gsb{gone}-h0", f"gss{gone}-sw", f"gss{os.getpid()}-h1", "gsx1-h0"):
        (tmp_path / name).touch()
    found = leftovers._dead(tmp_path, leftovers._NAMESPACE)
    assert [path.name for path in found] == [f"gsb{gone}-h0", f"gss{gone}-sw"]


def test_a_check_that_fails_does_not_end_the_others(monkeypatch):
    def fail() -> None:
        raise ValueError("unexpected line in /proc/meminfo")

    monkeypatch.setattr(memory.Memory, "collect", fail)
    found = list(alone.examine(alone.Place(ranks=1)))
    failed = [finding for finding in found if finding.topic == "doctor"]
    assert len(failed) == 1
    assert "unexpected line" in failed[0].found
    assert {"versions", "open files", "variables"} <= {finding.topic for finding in found}


def test_a_trial_that_cannot_start(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    tcp_trial, shm_trial = trial.run("tcp", os.environ), trial.run("shm", os.environ)
    assert (tcp_trial.level, shm_trial.level) == ("problem", "warning")
    assert "/no/such/python cannot be started" in tcp_trial.found


def test_a_trial_ends_with_the_doctor(tmp_path):
    command = tmp_path / "command"
    command.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nkill -TERM $PPID\nexec sleep 60\n")
    command.chmod(0o755)
    script = (
        "import os, sys; from gearshift.doctor import trial; "
        f"sys.executable = {str(command)!r}; trial.run('tcp', os.environ)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == -signal.SIGTERM
    await_end(int((tmp_path / "pid").read_text()))


def test_a_wrong_sum_is_noticed(monkeypatch):
    monkeypatch.setattr(gearshift, "world_size", lambda: 2, raising=False)
    monkeypatch.setattr(gearshift, "rank", lambda: 0, raising=False)
    monkeypatch.setattr(gearshift, "barrier", lambda: None, raising=False)
    monkeypatch.setattr(gearshift, "all_reduce", lambda x: x, raising=False)
    with pytest.raises(ArithmeticError, match="rank 0: element 0 of the sum is 0, not 1"):
        trial.time_all_reduce(1000, 1)
